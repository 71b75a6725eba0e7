//! What the AWQ plugin reads, on seeds, on what once failed, and on changed seeds.

#[test]
fn awq() {
    qhost_fuzz::targets::plugin::awq::<qhost_awq::Awq>().try_all();
}
