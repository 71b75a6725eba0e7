//! Metadata that the user gives, as `--override-kv` of llama.cpp takes it: `KEY=TYPE:VALUE`.
//!
//! As there, a key that is given comes after all others, an integer is stored as `u32`, a float as `f32`, and a text is
//! cut at 127 bytes. It knows the form, and no key's meaning.

use qhost_plugin_api::sdk::{Failure, Result};

use crate::{
    importance::cut,
    metadata::{Metadata, Value},
};

/// Keys that tell how the file is laid out or what its tensors are: another value would make it unreadable.
const KEPT: [&str; 6] = [
    "general.alignment",
    "general.quantization_version",
    "general.file_type",
    "split.no",
    "split.count",
    "split.tensors.count",
];

/// Reads the lines of the option.
///
/// # Errors
/// Fails with kind `USAGE` for what is not of the form, or names a key that cannot be given.
pub(crate) fn read(option: &str, lines: &str) -> Result<Vec<(String, Value)>> {
    lines.lines().map(|line| one(option, line)).collect()
}

fn one(option: &str, line: &str) -> Result<(String, Value)> {
    let wrong = |what: String| {
        Failure::usage(what)
            .about(format!("--plugin-option {option}"))
            .hint("it is KEY=TYPE:VALUE with a type of int, float, bool or str, such as general.name=str:Tiny")
    };
    let parts = line.split_once('=').and_then(|(key, rest)| Some((key, rest.split_once(':')?)));
    let Some((key, (kind, text))) = parts.filter(|(key, _)| !key.is_empty()) else {
        return Err(wrong(format!("`{line}` is not KEY=TYPE:VALUE")));
    };
    if KEPT.contains(&key) {
        return Err(wrong(format!("`{key}` says how the file is made, and cannot be another")));
    }
    let none = || wrong(format!("`{text}` is no value of the type {kind}"));
    let value = match kind {
        "int" => Value::U32(text.parse().map_err(|_| none())?),
        "float" => Value::F32(text.parse().ok().filter(|number: &f32| number.is_finite()).ok_or_else(none)?),
        "bool" => Value::Bool(text.parse().map_err(|_| none())?),
        "str" => Value::String(cut(text).into()),
        _ => return Err(wrong(format!("`{kind}` is no type"))),
    };
    Ok((key.to_owned(), value))
}

/// Puts the keys at the end, in the place of any that are there.
///
/// # Errors
/// Fails with kind `USAGE` when one is given twice.
pub(crate) fn put(metadata: &mut Metadata, given: &[(String, Value)]) -> Result<()> {
    for (index, (key, value)) in given.iter().enumerate() {
        if given[..index].iter().any(|(other, _)| other == key) {
            return Err(Failure::usage(format!("`{key}` is given twice")).hint("give each key once"));
        }
        metadata.remove(key);
        metadata.push(key.as_str(), value.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_types_that_llama_cpp_gives_them() {
        let given = read("kv", "a.b=int:7\na.c=float:1.5\na.d=bool:true\na.e=str:x:y=z").unwrap();
        let expected =
            [Value::U32(7), Value::F32(1.5), Value::Bool(true), Value::String("x:y=z".into())].map(|value| ("", value));
        assert!(given.iter().map(|(_, value)| value).eq(expected.iter().map(|(_, value)| value)), "{given:?}");
        let mut metadata = Metadata::new();
        metadata.push("a.c", 1_u32).unwrap();
        metadata.push("z", 1_u32).unwrap();
        put(&mut metadata, &given).unwrap();
        let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["z", "a.b", "a.c", "a.d", "a.e"]);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for line in [
            "a",
            "a=1",
            "=int:1",
            "a=int:-1",
            "a=int:x",
            "a=float:nan",
            "a=bool:1",
            "a=list:1",
            "general.alignment=int:64",
            "split.no=int:0",
        ] {
            assert!(read("kv", line).is_err(), "{line}");
        }
        let twice = read("kv", "a=int:1\na=int:2").unwrap();
        assert!(put(&mut Metadata::new(), &twice).is_err());
    }
}
