//! Writes the seeds of every target into a folder, where a fuzzer begins with them: `seeds FOLDER`.

use std::{error::Error, fs, path::PathBuf};

use qhost_fuzz::seeds;

type Seeds = fn() -> Vec<Vec<u8>>;

const ALL: [(&str, Seeds); 18] = [
    ("awq", seeds::awq),
    ("card", seeds::cards),
    ("companions", seeds::companions),
    ("compressed_tensors", seeds::compressed_tensors),
    ("config", seeds::configs),
    ("gguf", seeds::gguf),
    ("gptq", seeds::gptq),
    ("imatrix", seeds::imatrix),
    ("index", seeds::index),
    ("journal", seeds::journals),
    ("lines", seeds::lines),
    ("manifest", seeds::libraries),
    ("parquet", seeds::parquets),
    ("safetensors", seeds::safetensors),
    ("sentencepiece", seeds::sentencepieces),
    ("template", seeds::templates),
    ("tokenizer", seeds::tokenizers),
    ("vocabulary", seeds::vocabularies),
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("which folder?")?);
    for (name, seeds) in ALL {
        fs::create_dir_all(folder.join(name))?;
        for (index, seed) in seeds().iter().enumerate() {
            fs::write(folder.join(name).join(format!("seed-{index}")), seed)?;
        }
    }
    Ok(())
}
