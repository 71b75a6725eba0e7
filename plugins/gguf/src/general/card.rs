//! The model card: the YAML between two lines of hyphens at the start of `README.md`.
//!
//! It keeps the few keys that are asked for, to a small depth, so a hostile card costs no more than its
//! own length; aliases are not followed. It knows YAML through events only, and nothing of what the keys
//! mean. Scalars are texts, whatever type YAML would give them: a version `1.0`, and Norway's `no`.

use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// What is read of a card. The longest ones hold tables of results; their descriptions come first.
pub(super) const LONGEST: usize = 1 << 20;

/// Lists under keys, and maps in these lists.
const DEEPEST: usize = 3;

/// The keys that are kept.
const KEYS: [&str; 39] = [
    "name",
    "author",
    "version",
    "organization",
    "description",
    "finetune",
    "basename",
    "size_label",
    "url",
    "doi",
    "uuid",
    "repo_url",
    "model_name",
    "model_author",
    "model_version",
    "model_organization",
    "model_description",
    "model_finetune",
    "model_basename",
    "model_size_label",
    "model_url",
    "model_doi",
    "model_uuid",
    "model_repo_url",
    "model_creator",
    "model_type",
    "base_model",
    "base_models",
    "base_model_sources",
    "datasets",
    "dataset",
    "dataset_sources",
    "license",
    "license_name",
    "license_link",
    "tags",
    "pipeline_tag",
    "languages",
    "language",
];

/// A value of the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// Nothing, or what is not kept.
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text, or those of the list.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let list = match self {
            Self::List(list) => list.as_slice(),
            _ => &[],
        };
        self.text().into_iter().chain(list.iter().filter_map(Self::text))
    }
}

/// Why a card cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kept keys of a card.
#[derive(Debug, Default)]
pub(super) struct Card(Vec<(String, Node)>);

impl Card {
    /// Reads the start of `README.md`; without front matter the card is empty.
    ///
    /// # Errors
    /// Fails when the front matter is not YAML, or not whole.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let Some(yaml) = front_matter(bytes)? else { return Ok(Self::default()) };
        let mut builder = Builder::default();
        for event in Parser::new_from_str(&yaml) {
            let (event, _) = event.map_err(|error| Unreadable(format!("its front matter is not YAML: {error}")))?;
            if let Event::DocumentEnd = event {
                break;
            }
            builder.take(event);
        }
        match builder.root {
            Some(Node::Map(entries)) => Ok(Self(entries)),
            None | Some(Node::Null) => Ok(Self::default()),
            Some(_) => Err(Unreadable("its front matter has no keys".to_owned())),
        }
    }

    /// The value of a key. The last one counts where a key comes twice.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, node)| node)
    }
}

/// The lines between the first two that are `---`.
fn front_matter(bytes: &[u8]) -> Result<Option<String>, Unreadable> {
    const FENCE: &[u8] = b"---";
    let mut yaml = Vec::new();
    let mut lines = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    if lines.next() != Some(FENCE) {
        return Ok(None);
    }
    let mut closed = false;
    for line in lines {
        closed = line == FENCE;
        if closed {
            break;
        }
        yaml.extend_from_slice(line);
        yaml.push(b'\n');
    }
    if !closed && bytes.len() >= LONGEST {
        return Err(Unreadable(format!("its front matter is longer than {LONGEST} bytes")));
    }
    let yaml = String::from_utf8(yaml).map_err(|_| Unreadable("its front matter is not UTF-8".to_owned()))?;
    // Some published cards indent with tabs; the reference converter replaces them, too.
    Ok(Some(yaml.replace('\t', "  ")))
}

/// Makes nodes of events.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    /// Lists and maps inside of what is not kept.
    skipped: usize,
    root: Option<Node>,
}

/// A list or map that has not ended.
enum Open {
    List(Vec<Node>),
    Map(Vec<(String, Node)>, Key),
}

/// The key whose value comes next.
enum Key {
    /// The next node is a key.
    Awaited,
    /// The next node is the value of this one.
    Kept(String),
    /// The next node is a value that is not kept.
    Dropped,
}

impl Builder {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::SequenceStart(..) => self.start(Open::List(Vec::new())),
            Event::MappingStart(..) => self.start(Open::Map(Vec::new(), Key::Awaited)),
            Event::SequenceEnd | Event::MappingEnd if self.skipped > 0 => {
                self.skipped -= 1;
                if self.skipped == 0 {
                    self.place(Node::Null);
                }
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(list)) => self.place(Node::List(list)),
                Some(Open::Map(entries, _)) => self.place(Node::Map(entries)),
                None => {}
            },
            _ if self.skipped > 0 => {}
            Event::Scalar(text, style, ..) => {
                let plain = matches!(style, ScalarStyle::Plain);
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                self.place(if null { Node::Null } else { Node::Text(text.into_owned()) });
            }
            Event::Alias(_) => self.place(Node::Null),
            _ => {}
        }
    }

    fn start(&mut self, open: Open) {
        // A list as a key, or under a key that is not asked for, is passed over like one that is too deep.
        let wanted = match self.open.last() {
            None | Some(Open::List(_) | Open::Map(_, Key::Kept(_))) => self.open.len() <= DEEPEST,
            Some(Open::Map(..)) => false,
        };
        if self.skipped > 0 || !wanted {
            self.skipped += 1;
        } else {
            self.open.push(open);
        }
    }

    fn place(&mut self, node: Node) {
        let outermost = self.open.len() == 1;
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(list)) => list.push(node),
            Some(Open::Map(entries, key)) => {
                *key = match (std::mem::replace(key, Key::Awaited), node) {
                    (Key::Awaited, Node::Text(text)) if !outermost || KEYS.contains(&text.as_str()) => Key::Kept(text),
                    (Key::Awaited, _) => Key::Dropped,
                    (Key::Kept(text), node) => {
                        entries.push((text, node));
                        Key::Awaited
                    }
                    (Key::Dropped, _) => Key::Awaited,
                }
            }
        }
    }
}
