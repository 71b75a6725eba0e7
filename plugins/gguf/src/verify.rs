//! Holding GGUF files that anybody made against what the format and its loaders demand.
//!
//! It looks at headers only; numbers are looked at row by row, see [`GgmlType`](qhost_ggml::GgmlType).

use qhost_plugin_api::{
    documents::Check,
    sdk::{Failure, FileView},
};

use crate::{
    header::{Described, Header},
    metadata::{Array, Metadata, Value},
    reader::{Parts, text, within},
};

/// The programs that load the format; all of them do it with llama.cpp's code.
pub(crate) const LOADERS: [&str; 3] = ["llama.cpp", "ollama", "lm-studio"];

/// The longest name of a tensor that ggml takes, in bytes (`GGML_MAX_NAME` less the NUL).
const LONGEST_NAME: usize = 63;

/// What was seen, or what is wrong.
type Seen = Result<String, String>;

/// The checks of these files, in order; those that make no sense after a failed one are left out.
pub(crate) fn check(files: &[FileView<'_>], loader: Option<&str>) -> Vec<Check> {
    let parts = match Parts::read(files) {
        Ok(parts) => parts,
        Err(failure) => return vec![Check::failed("structure", failure.to_string())],
    };
    let mut checks = vec![finding("structure", structure(files, &parts)), finding("keys", keys(&parts))];
    if loader.is_some() {
        checks.push(finding("loader", loadable(&parts)));
    }
    checks
}

fn finding(name: &str, seen: Seen) -> Check {
    match seen {
        Ok(detail) => Check::passed(name, detail),
        Err(detail) => Check::failed(name, detail),
    }
}

/// The tensors' places, and the lengths of the files.
fn structure(files: &[FileView<'_>], parts: &Parts) -> Seen {
    if let Some(gap) = parts.gaps().into_iter().next() {
        return Err(gap);
    }
    for (file, header) in files.iter().zip(&parts.headers) {
        let places = header.check_places(file.bytes.len() as u64);
        places.and_then(|()| check_order(header, file.bytes.len() as u64)).map_err(|failure| {
            let failure = within(file, failure);
            failure.to_string()
        })?;
    }
    let (tensors, keys) = (parts.tensors().count(), parts.first().metadata.len());
    let of = if parts.count > 1 { format!(" in {} parts", parts.count) } else { String::new() };
    Ok(format!("{keys} keys, {tensors} tensors{of}"))
}

/// llama.cpp wants every tensor right behind the one before it, in the order of their descriptions.
fn check_order(header: &Header, file_bytes: u64) -> Result<(), Failure> {
    let mut next = 0_u64;
    let mut end = 0;
    for tensor in &header.tensors {
        if tensor.name.len() > LONGEST_NAME {
            return Err(Failure::corrupt(format!("its name is longer than {LONGEST_NAME} bytes")).about(&*tensor.name));
        }
        if tensor.offset != next {
            let message = format!("its data are at {}, and llama.cpp expects them at {next}", tensor.offset);
            return Err(Failure::corrupt(message).about(&*tensor.name));
        }
        end = tensor.offset + tensor.bytes;
        next = end.checked_next_multiple_of(header.alignment).unwrap_or(u64::MAX);
    }
    let longest = header.data_start.saturating_add(next);
    if file_bytes > longest && !header.tensors.is_empty() {
        let past = file_bytes - (header.data_start + end);
        return Err(Failure::corrupt(format!("goes on for {past} bytes after its last tensor")));
    }
    Ok(())
}

fn keys(parts: &Parts) -> Seen {
    let metadata = &parts.first().metadata;
    match metadata.get("general.architecture") {
        Some(Value::String(architecture)) if !architecture.is_empty() => Ok(format!("architecture {architecture}")),
        Some(_) => Err("`general.architecture` is not a name".into()),
        None => Err("`general.architecture` is missing".into()),
    }
}

/// What llama.cpp asks of every language model, whatever its architecture.
fn loadable(parts: &Parts) -> Seen {
    let metadata = &parts.first().metadata;
    let architecture = text(metadata, "general.architecture").unwrap_or_default();
    let sized = |key: &str| {
        let key = format!("{architecture}.{key}");
        let number = metadata.get(&key).and_then(Value::as_u64);
        number.filter(|number| *number > 0).ok_or_else(|| format!("`{key}` is missing or no size"))
    };
    let (layers, hidden) = (sized("block_count")?, sized("embedding_length")?);
    sized("context_length")?;
    let find = |name: &str| parts.tensors().find(|tensor| tensor.name == name);
    let embedding = find("token_embd.weight").ok_or("token_embd.weight is missing")?;
    if embedding.dimensions.first() != Some(&hidden) {
        return Err(format!("token_embd.weight has rows of {:?}, not of {hidden}", embedding.dimensions.first()));
    }
    let vocabulary = vocabulary(metadata, embedding)?;
    let blocks: std::collections::BTreeSet<u64> = parts.tensors().filter_map(|tensor| block(&tensor.name)).collect();
    if blocks.len() as u64 != layers || blocks.last().is_some_and(|last| *last >= layers) {
        return Err(format!(
            "there are tensors of {} blocks, and `{architecture}.block_count` is {layers}",
            blocks.len()
        ));
    }
    Ok(format!("{layers} blocks, {vocabulary}"))
}

/// The tokenizer's tokens are the rows of the embedding.
fn vocabulary(metadata: &Metadata, embedding: &Described) -> Seen {
    let model = text(metadata, "tokenizer.ggml.model").ok_or("`tokenizer.ggml.model` is missing")?;
    if model == "none" || model == "no_vocab" {
        return Ok("no tokenizer".into());
    }
    let Some(Value::Array(Array::String(tokens))) = metadata.get("tokenizer.ggml.tokens") else {
        return Err("`tokenizer.ggml.tokens` is missing".into());
    };
    let rows = embedding.dimensions.get(1).copied().unwrap_or(1);
    if tokens.len() as u64 != rows {
        return Err(format!("there are {} tokens, and token_embd.weight has {rows} rows", tokens.len()));
    }
    Ok(format!("{rows} tokens ({model})"))
}

/// The block that a tensor belongs to.
fn block(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::BlockType,
        write::{Unplaced, lay_out},
    };
    use qhost_plugin_api::documents::CheckStatus;

    fn metadata() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.push("general.architecture", "llama").unwrap();
        for (key, value) in [("block_count", 1_u32), ("embedding_length", 32), ("context_length", 8)] {
            metadata.push(format!("llama.{key}"), value).unwrap();
        }
        metadata.push("tokenizer.ggml.model", "gpt2").unwrap();
        metadata.push("tokenizer.ggml.tokens", vec!["a".to_owned(), "b".to_owned()]).unwrap();
        metadata
    }

    fn file(metadata: &Metadata, tensors: &[(&str, [u64; 2])]) -> Vec<u8> {
        let tensor = |&(name, shape): &(&str, [u64; 2])| Unplaced {
            name: name.into(),
            shape: shape.into(),
            block_type: BlockType::Q4_0,
        };
        let layout = lay_out(metadata, tensors.iter().map(tensor).collect()).unwrap();
        let mut bytes = layout.header;
        bytes.resize(usize::try_from(layout.file_bytes).unwrap(), 0);
        bytes
    }

    const TENSORS: [(&str, [u64; 2]); 2] = [("token_embd.weight", [2, 32]), ("blk.0.ffn_up.weight", [3, 32])];

    fn failed(bytes: &[u8]) -> Vec<(String, String)> {
        let checks = check(&[FileView { name: "x.gguf", bytes }], Some("llama.cpp"));
        let failed = checks.into_iter().filter(|check| check.status == CheckStatus::Failed);
        failed.map(|check| (check.name, check.detail)).collect()
    }

    #[test]
    fn a_sound_file_passes_with_and_without_the_last_padding() {
        let bytes = file(&metadata(), &TENSORS);
        assert_eq!(failed(&bytes), []);
        assert_eq!(failed(&bytes[..bytes.len() - 10]), []);
    }

    #[test]
    fn what_llama_cpp_would_refuse_is_found() {
        let without = |key: &str| {
            let mut kept = Metadata::new();
            metadata().iter().filter(|(found, _)| *found != key).for_each(|(key, value)| {
                kept.push(key, value.clone()).unwrap();
            });
            file(&kept, &TENSORS)
        };
        let long = "x".repeat(64);
        let mut longer = file(&metadata(), &TENSORS);
        longer.extend([0; 40]);
        for (bytes, name, words) in [
            (without("general.architecture"), "keys", "general.architecture"),
            (without("llama.block_count"), "loader", "llama.block_count"),
            (without("tokenizer.ggml.tokens"), "loader", "tokens"),
            (file(&metadata(), &TENSORS[..1]), "loader", "tensors of 0 blocks"),
            (file(&metadata(), &[("token_embd.weight", [3, 32]), TENSORS[1]]), "loader", "2 tokens"),
            (file(&metadata(), &[("token_embd.weight", [2, 64]), TENSORS[1]]), "loader", "rows of"),
            (file(&metadata(), &[TENSORS[0], TENSORS[1], (&long, [1, 32])]), "structure", "longer than 63"),
            (longer, "structure", "after its last tensor"),
        ] {
            let failed = failed(&bytes);
            assert!(
                failed.iter().any(|(check, detail)| check == name && detail.contains(words)),
                "{words}: {failed:?}"
            );
        }
    }

    #[test]
    fn a_gap_between_tensors_is_found() {
        let mut bytes = file(&metadata(), &TENSORS);
        let at = bytes.windows(19).position(|window| window == b"blk.0.ffn_up.weight").unwrap() + 19 + 4 + 16 + 4;
        assert_eq!(bytes[at], 64);
        bytes[at] = 96;
        bytes.extend([0; 32]);
        let failed = failed(&bytes);
        assert!(failed[0].1.contains("at 96, and llama.cpp expects them at 64"), "{failed:?}");
    }
}
