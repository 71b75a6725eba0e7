//! What the GGUF plugin reads, on seeds, on what once failed, and on changed seeds.

use qhost_fuzz::targets::plugin;

#[test]
fn gguf() {
    plugin::gguf::<qhost_gguf::Gguf>().try_all();
}

#[test]
fn imatrix() {
    plugin::imatrix::<qhost_gguf::Gguf>().try_all();
}

#[test]
fn companions() {
    plugin::companions::<qhost_gguf::Gguf>().try_all();
}
