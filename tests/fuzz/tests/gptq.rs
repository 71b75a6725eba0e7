//! What the GPTQ plugin reads, on seeds, on what once failed, and on changed seeds.

#[test]
fn gptq() {
    qhost_fuzz::targets::plugin::gptq::<qhost_gptq::Gptq>().try_all();
}
