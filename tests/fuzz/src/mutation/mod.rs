//! Changes to inputs: of bytes, and of what is written in them, with lengths and checksums made right again, so that a
//! change gets past them.

mod json;

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::{random::Random, target::Form};

/// What stands between the files of an input of several: a byte that no UTF-8 has.
pub const SEPARATOR: u8 = 0xff;

/// A changed input, in bytes or as its form allows.
#[must_use]
pub fn mutate(form: Form, input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let structured = if random.below(3) == 0 { None } else { structured(form, input, random) };
    structured.unwrap_or_else(|| bytes(input, other, random))
}

fn structured(form: Form, input: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    match form {
        Form::Bytes => None,
        Form::Files => {
            let mut files: Vec<Vec<u8>> = input.split(|byte| *byte == SEPARATOR).map(<[u8]>::to_vec).collect();
            let at = random.below(files.len());
            files[at] = changed_json(&files[at], random)?;
            Some(files.join(&SEPARATOR))
        }
        Form::Lines => {
            let mut lines: Vec<Vec<u8>> = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let at = random.below(lines.len());
            lines[at] = changed_json(&lines[at], random)?;
            Some(lines.join(&b'\n'))
        }
        Form::Checksummed => {
            let mut lines: Vec<Vec<u8>> = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let at = random.below(lines.len());
            let json = changed_json(lines[at].get(17..)?, random)?;
            lines[at] = [format!("{:016x} ", xxh3_64(&json)).as_bytes(), &json].concat();
            Some(lines.join(&b'\n'))
        }
        Form::Weights => header_changed(input, random),
        Form::Folder => {
            let mut files: Vec<Vec<u8>> = input.splitn(3, |byte| *byte == SEPARATOR).map(<[u8]>::to_vec).collect();
            let at = random.below(files.len());
            files[at] = if at == 2 { header_changed(&files[2], random)? } else { changed_json(&files[at], random)? };
            Some(files.join(&SEPARATOR))
        }
    }
}

/// A safetensors file whose header is another, of the length that it says.
fn header_changed(input: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let length = usize::try_from(u64::from_le_bytes(*input.first_chunk()?)).ok()?;
    let end = length.checked_add(8)?;
    let header = changed_json(input.get(8..end)?, random)?;
    Some([&(header.len() as u64).to_le_bytes()[..], &header, &input[end..]].concat())
}

fn changed_json(text: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(text).ok()?;
    json::mutate(&mut document, random);
    Some(document.to_string().into_bytes())
}

/// Numbers that readers of binary files trip over.
const EXTREMES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX - 7, u64::MAX];

/// Changes bytes in one to eight places.
fn bytes(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut made = input.to_vec();
    for _ in 0..=random.below(8) {
        let at = place(&made, random);
        match random.below(8) {
            0 | 1 => {
                if let Some(byte) = made.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            2 => {
                if let Some(byte) = made.get_mut(at) {
                    *byte = random.bits().to_le_bytes()[0];
                }
            }
            3 | 4 => {
                let width = 1 << random.below(4);
                let extreme = random.one(&EXTREMES).copied().unwrap_or_default().to_le_bytes();
                made.iter_mut().skip(at).zip(&extreme[..width]).for_each(|(byte, new)| *byte = *new);
            }
            5 => {
                let end = (at + random.below(64)).min(made.len());
                made.drain(at..end);
            }
            6 => {
                let end = (at + random.below(64)).min(made.len());
                let piece = made[at..end].to_vec();
                let to = place(&made, random);
                made.splice(to..to, piece);
            }
            _ if random.below(3) == 0 => made.truncate(at),
            _ => {
                // The front of this one, and the end of another.
                let from = place(other, random);
                made.truncate(at);
                made.extend_from_slice(&other[from..]);
            }
        }
    }
    made
}

/// A place in bytes: mostly near the front, where headers are.
fn place(bytes: &[u8], random: &mut Random) -> usize {
    let end = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(512) };
    random.below(end + 1).min(bytes.len())
}
