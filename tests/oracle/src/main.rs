//! Figures from llama.cpp by hand: quantises a file, lists it, tokenises, computes perplexity and divergence.
#![expect(clippy::print_stderr, reason = "a program for people")]

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use qhost_oracle::{Gguf, LEVELS, Level, Model, Recipe, Scored, Value, quantize_file, type_info};

const USAGE: &str = "usage:
  qhost-oracle quantize IN.gguf OUT.gguf LEVEL [--pure] [--threads N]
  qhost-oracle compare FILE.gguf FILE.gguf
  qhost-oracle levels IN.gguf FOLDER [LEVEL...]
  qhost-oracle list FILE.gguf
  qhost-oracle tokenize FILE.gguf --text FILE [--no-special]
  qhost-oracle perplexity FILE.gguf --text FILE [--ctx N] [--all] [--threads N]
  qhost-oracle divergence ORIGINAL.gguf FILE.gguf --rows FILE [--threads N]

LEVEL is a name such as Q4_K_M or a number of llama.cpp's file types. `compare` fails if metadata or tensors differ. `levels` makes FOLDER/LEVEL.gguf of
each, or of all levels, those that need an importance matrix with a made-up one. Perplexity scores the second
half of each window of N tokens (512), with --all every token but the first. Divergence is that of the predictions of FILE from those of ORIGINAL, at all
positions of the rows: one a line, the numbers of its tokens.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String], out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["quantize", input, output, level, ref rest @ ..] => {
            let named = Level::named(level).map(|found| found.file_type);
            let file_type =
                named.map_or_else(|| level.parse(), Ok).map_err(|_| format!("no level is called {level}"))?;
            let mut recipe = Recipe::new(file_type);
            recipe.pure = rest.contains(&"--pure");
            recipe.threads = option(rest, "--threads").map(str::parse).transpose()?;
            quantize_file(Path::new(input), Path::new(output), &recipe)?;
        }
        ["levels", input, folder, ref names @ ..] => {
            for level in LEVELS.iter().filter(|level| names.is_empty() || names.contains(&level.name)) {
                level.quantize(Path::new(input), &Path::new(folder).join(format!("{}.gguf", level.name)))?;
                writeln!(out, "{}", level.name)?;
            }
        }
        ["compare", one, other] => {
            if let Some(difference) = Gguf::open(Path::new(one))?.difference(&Gguf::open(Path::new(other))?)? {
                return Err(format!("{one} and {other}: {difference}").into());
            }
        }
        ["list", file] => list(&Gguf::open(Path::new(file))?, out)?,
        ["tokenize", file, ref rest @ ..] => {
            let text = std::fs::read_to_string(option(rest, "--text").ok_or(USAGE)?)?;
            let model = Model::load_vocabulary(Path::new(file))?;
            for token in model.tokenize(&text, !rest.contains(&"--no-special"), false)? {
                writeln!(out, "{token}\t{:?}", String::from_utf8_lossy(&model.piece(token, true)?))?;
            }
        }
        ["perplexity", file, ref rest @ ..] => {
            let text = std::fs::read_to_string(option(rest, "--text").ok_or(USAGE)?)?;
            let window = option(rest, "--ctx").map_or(Ok(512), str::parse)?;
            let scored = if rest.contains(&"--all") { Scored::All } else { Scored::SecondHalf };
            let threads = option(rest, "--threads").map_or(Ok(1), str::parse)?;
            let model = Model::load(Path::new(file))?.with_threads(threads);
            let perplexity = model.perplexity(&text, window, scored)?;
            writeln!(
                out,
                "perplexity {:.6}, mean nll {:.6} over {} tokens",
                perplexity.value(),
                perplexity.mean_nll,
                perplexity.scored
            )?;
        }
        ["divergence", original, file, ref rest @ ..] => {
            let rows = std::fs::read_to_string(option(rest, "--rows").ok_or(USAGE)?)?;
            let numbers = |line: &str| line.split_whitespace().map(str::parse).collect::<Result<Vec<i32>, _>>();
            let rows = rows.lines().map(numbers).collect::<Result<Vec<_>, _>>()?;
            let threads = option(rest, "--threads").map_or(Ok(1), str::parse)?;
            let original = Model::load(Path::new(original))?.with_threads(threads);
            let file = Model::load(Path::new(file))?.with_threads(threads);
            let found = file.divergence_from(&original, &rows)?;
            writeln!(
                out,
                "kl {:.9}\ntop1 {:.6}\nnll {:.6}\nnll_original {:.6}\nscored {}",
                found.kl, found.top1_agreement, found.mean_nll, found.mean_nll_original, found.scored
            )?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// The word after an option.
fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().skip_while(|word| **word != name).nth(1).copied()
}

fn list(gguf: &Gguf, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "version {}, alignment {}, data at {}", gguf.version, gguf.alignment, gguf.data_offset)?;
    for (key, value) in &gguf.metadata {
        match value {
            Value::Array(values) => {
                let head: Vec<&Value> = values.iter().take(4).collect();
                writeln!(out, "{key} = {} values {head:?}", values.len())?;
            }
            value => writeln!(out, "{key} = {value:?}")?,
        }
    }
    for tensor in &gguf.tensors {
        let name = type_info(tensor.ggml_type).map_or_else(|_| tensor.ggml_type.to_string(), |info| info.name);
        writeln!(out, "{} {name} {:?} at {}, {} bytes", tensor.name, tensor.dims, tensor.offset, tensor.bytes)?;
    }
    Ok(())
}
