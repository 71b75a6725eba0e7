//! What the compressed-tensors plugin reads, on seeds, on what once failed, and on changed seeds.

#[test]
fn compressed_tensors() {
    qhost_fuzz::targets::plugin::compressed_tensors::<qhost_compressed_tensors::CompressedTensors>().try_all();
}
