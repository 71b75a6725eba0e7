//! Taking a model's name apart: `Llama-3.2-1B-Instruct` is the base `Llama-3.2`, of the size `1B`, tuned to
//! `Instruct`.
//!
//! The rules are `gguf-py`'s (`get_model_id_components`, `id_to_title`), whose order matters. They see ASCII
//! digits where Python sees those of all scripts.

/// What a name says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Components {
    /// Without the organization.
    pub(super) name: String,
    pub(super) organization: Option<String>,
    pub(super) basename: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) version: Option<String>,
    pub(super) size_label: Option<String>,
}

/// A part of a name between hyphens, and what it was found to be; it may be several things.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "a set of five flags")]
struct Part {
    text: String,
    basename: bool,
    size_label: bool,
    finetune: bool,
    version: bool,
    /// A type of weights, which is none of the name's business.
    weights: bool,
}

impl Part {
    fn kinds(&self) -> usize {
        let kinds = [self.basename, self.size_label, self.finetune, self.version, self.weights];
        kinds.into_iter().filter(|&is| is).count()
    }
}

impl Components {
    /// Takes `name` or `organization/name` apart. `total` is the model's number of parameters, by which a size
    /// is told from a length of context.
    pub(super) fn of(id: &str, total: u64) -> Self {
        // A sentence.
        if id.contains(' ') {
            return Self { name: id.to_owned(), ..Self::default() };
        }
        let (organization, name) = match id.split_once('/') {
            Some((organization, name)) => (Some(organization), name),
            None => (None, id),
        };
        // `./model` has none.
        let organization = organization.filter(|text| !text.starts_with('.')).map(str::to_owned);
        let mut parts: Vec<Part> = name
            .split('-')
            .filter(|text| !text.is_empty())
            .map(|text| Part { text: text.to_owned(), ..Part::default() })
            .collect();
        for (index, part) in parts.iter_mut().enumerate() {
            annotate(part, index == 0, total);
        }
        prefer_numbers(&mut parts);
        find_basename(&mut parts);

        let join = |is: fn(&Part) -> bool| {
            let mut texts: Vec<&str> = Vec::new();
            texts.extend(parts.iter().filter(|part| is(part)).map(|part| part.text.as_str()));
            Some(texts.join("-")).filter(|text| !text.is_empty())
        };
        let mut sizes: Vec<&str> = Vec::new();
        for part in parts.iter().filter(|part| part.size_label) {
            if !sizes.contains(&part.text.as_str()) {
                sizes.push(&part.text);
            }
        }
        let size_label = Some(sizes.join("-")).filter(|text| !text.is_empty());
        let finetune = join(|part| part.finetune);
        let version = join(|part| part.version && !part.basename);
        // The whole name as the base would say nothing.
        let telling = size_label.is_some() || finetune.is_some() || version.is_some();
        let basename = join(|part| part.basename).filter(|_| telling);
        Self { name: name.to_owned(), organization, basename, finetune, version, size_label }
    }
}

fn annotate(part: &mut Part, first: bool, total: u64) {
    let lower = part.text.to_ascii_lowercase();
    if is_version(&lower) {
        part.version = true;
    } else if is_weight_type(&lower) {
        part.weights = true;
        part.text = part.text.to_uppercase();
    } else if !first && is_size(&lower) {
        part.text = spelled_size(&part.text);
        // Much larger or smaller than the model: a length of context, such as `128k`.
        if is_far_from(&part.text, total) {
            part.finetune = true;
            let letter = part.text.pop().map(|letter| letter.to_ascii_lowercase());
            part.text.extend(letter);
        } else {
            part.size_label = true;
        }
    } else if !first && matches!(lower.as_str(), "chat" | "instruct" | "vision" | "lora") {
        part.finetune = true;
    }
}

/// `7b` is `7B`, `1_5b` is `1.5B`, and `7b1` is `7.1B`.
fn spelled_size(text: &str) -> String {
    let mut text = text.replace('_', ".");
    // The text was matched as ASCII.
    if text.ends_with(|c: char| c.is_ascii_digit()) {
        let digit = text.pop();
        let letter = text.pop();
        text.push('.');
        text.extend(digit.into_iter().chain(letter));
    }
    let mut from_end = text.chars().rev();
    let (last, before) = (from_end.next(), from_end.next());
    if before.is_some_and(|c| c.is_ascii_digit()) && last.is_some_and(|c| "kmbt".contains(c)) {
        let letter = text.pop().map(|letter| letter.to_ascii_uppercase());
        text.extend(letter);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "a comparison within a factor of eight")]
fn is_far_from(size: &str, total: u64) -> bool {
    if total == 0 {
        return false;
    }
    let scale = match size.as_bytes().last() {
        Some(b'K') => 1e3,
        Some(b'M') => 1e6,
        Some(b'B') => 1e9,
        Some(b'T') => 1e12,
        _ => return false,
    };
    // Sizes such as `8x7B`, `A3B` and `XL` are no numbers.
    let digits = &size[..size.len() - 1];
    let Some(number) = digits.parse::<f64>().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit())) else {
        return false;
    };
    let allowed = u128::from(total) * 7 / 8;
    (number * scale - total as f64).abs() > allowed as f64
}

/// A size in words counts only where there is none in numbers.
fn prefer_numbers(parts: &mut [Part]) {
    if parts.iter().any(|part| part.size_label && part.text.contains(|c: char| c.is_ascii_digit())) {
        for part in parts {
            part.size_label &= !part.text.chars().all(char::is_alphabetic);
        }
    }
}

/// The base is the words and versions that the name begins with, less the versions at its end; words after
/// it are what the model was tuned to.
fn find_basename(parts: &mut [Part]) {
    let mut at_start = true;
    for part in parts.iter_mut() {
        let unknown = part.kinds() == 0;
        if at_start && (unknown && part.text.starts_with(char::is_alphabetic) || part.version) {
            part.basename = true;
        } else {
            at_start = false;
            part.finetune |= unknown;
        }
    }
    for part in parts.iter_mut().rev() {
        if !(part.basename && part.kinds() > 1) {
            break;
        }
        part.basename = false;
    }
}

/// `v1.5`, `iter3`, `2`.
fn is_version(lower: &str) -> bool {
    let rest = lower.strip_prefix("iter").or_else(|| lower.strip_prefix('v')).unwrap_or(lower);
    rest.split('.').all(is_number)
}

/// `q4_k_m`, `fp16`, `bf16`.
fn is_weight_type(lower: &str) -> bool {
    let float = lower.strip_prefix('b').unwrap_or(lower);
    let float = float.strip_prefix('f').map(|rest| rest.strip_prefix('p').unwrap_or(rest));
    if float.is_some_and(|bits| bits == "16" || bits == "32") {
        return true;
    }
    let quantised = lower.strip_prefix('i').unwrap_or(lower);
    quantised.strip_prefix('q').and_then(|rest| rest.strip_prefix(|c: char| c.is_ascii_digit())).is_some_and(|rest| {
        let mut chars = rest.chars();
        // Pairs of an underscore and one word character.
        while let Some(c) = chars.next() {
            if c != '_' || !chars.next().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                return false;
            }
        }
        true
    })
}

/// `7b`, `1.5b`, `8x7b`, `a3b`, `7b1`, `small`, `xl`.
fn is_size(lower: &str) -> bool {
    if matches!(lower, "small" | "mini" | "medium" | "large" | "xl" | "xxl") {
        return true;
    }
    let rest = match lower.split_once('x') {
        Some((experts, rest)) if is_number(experts) => rest,
        _ => lower.strip_prefix('a').unwrap_or(lower),
    };
    let rest = rest.strip_suffix(|c: char| c.is_ascii_digit()).filter(|rest| !is_number(rest)).unwrap_or(rest);
    let Some(number) = rest.strip_suffix(['k', 'm', 'b', 't']) else { return false };
    match number.split_once(['.', '_']) {
        Some((whole, fraction)) => is_number(whole) && is_number(fraction),
        None => is_number(number),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A title: words in small letters get a capital, but for versions.
pub(super) fn title(id: &str) -> String {
    let words = id.split(|c: char| c == '-' || c.is_whitespace()).filter(|word| !word.is_empty());
    let words: Vec<_> = words
        .map(|word| if is_small(word) && !is_number_or_version(word) { capitalised(word) } else { word.to_owned() })
        .collect();
    words.join(" ")
}

fn is_small(word: &str) -> bool {
    word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase)
}

fn is_number_or_version(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        || word.strip_prefix('v').is_some_and(|rest| rest.split('.').all(is_number))
}

/// With a capital after everything that is no letter: `gpt_oss` is `Gpt_Oss`.
fn capitalised(word: &str) -> String {
    let mut inside = false;
    let mut text = String::new();
    for c in word.chars() {
        if inside {
            text.extend(c.to_lowercase());
        } else {
            text.extend(c.to_uppercase());
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    text
}
