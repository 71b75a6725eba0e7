//! Memory grows neither with the model nor with the width of its tensors.
//!
//! What a run takes is what Linux says of the process while it runs, not what the program says.
#![cfg(target_os = "linux")]

use std::{fs, thread, time::Duration};

use qhost_tests::{checkpoint::RandomLlama, command::Qhost};

const MIB: u64 = 1 << 20;

/// The most memory that a process had, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Peak {
    /// All that was resident, pages of mapped files included: the kernel's own high-water mark.
    pub(crate) resident: u64,
    /// Memory of its own, as often as it was looked at.
    pub(crate) anonymous: u64,
}

impl Peak {
    /// Runs a command to its end and watches it.
    pub(crate) fn of(command: Qhost) -> Self {
        let (mut child, _home) = command.start();
        let status = format!("/proc/{}/status", child.id());
        let mut peak = Self::default();
        loop {
            // A process that has ended has no figures left.
            let text = fs::read_to_string(&status).unwrap_or_default();
            let figure = |key: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(key))?;
                line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
            };
            peak.resident = peak.resident.max(figure("VmHWM:").unwrap_or(0));
            peak.anonymous = peak.anonymous.max(figure("RssAnon:").unwrap_or(0));
            if let Some(ended) = child.try_wait().unwrap() {
                assert!(ended.success(), "{ended}");
                assert!(peak.anonymous > MIB, "it ended before it was looked at");
                return peak;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn quantizing(llama: &RandomLlama, threads: u32) -> Peak {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    llama.write(&model);
    let qhost = Qhost::new(["quantize", "--format", "gguf", "--level", "Q8_0", "-o"]).arg(folder.path());
    Peak::of(qhost.arg("--threads").arg(threads.to_string()).arg(&model))
}

/// A quarter of a gigabyte goes through in a fraction of it.
#[test]
fn a_run_takes_a_fraction_of_the_model_s_size() {
    let llama =
        RandomLlama { hidden: 2048, ffn: 5632, heads: 32, kv_heads: 4, layers: 3, shards: 2, ..RandomLlama::default() };
    assert!(llama.bytes() as u64 > 250 * MIB);
    let peak = quantizing(&llama, 2);
    assert!(peak.anonymous < 48 * MIB && peak.resident < 64 * MIB, "{peak:?}");
}

/// A head of 1024 rows of 4096 weights would be 48 MiB in the hands of each of four threads, were it worked
/// on as a whole.
#[test]
fn a_thread_s_share_is_small_however_large_a_head_is() {
    let llama = RandomLlama { hidden: 4096, ffn: 32, heads: 4, kv_heads: 4, layers: 1, ..RandomLlama::default() };
    let peak = quantizing(&llama, 16);
    assert!(peak.anonymous < 48 * MIB, "{peak:?}");
}

/// Where the types of tensors follow from what is measured, the plan is made again when the run has begun, and the
/// tokenizer, whose vocabulary is large here, is read again for it.
#[test]
fn the_least_that_a_plan_accepts_is_enough_for_a_plan_that_is_made_twice() {
    let llama = RandomLlama { hidden: 256, ffn: 256, heads: 4, vocabulary: 256_000, ..RandomLlama::default() };
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    llama.write(&model);
    let run = |command: &str, mebibytes: u64| {
        let qhost = Qhost::new([command, "--format", "gguf", "--level", "6bpw", "--threads", "2", "-o"]);
        qhost.arg(folder.path()).arg(format!("--max-memory={mebibytes}MiB")).arg(&model)
    };
    let plan = |mebibytes: u64| run("plan", mebibytes).run();
    let least = (8..128).step_by(2).find(|mebibytes| plan(*mebibytes).code == Some(0));
    let least = least.unwrap_or_else(|| panic!("{:?}", plan(128)));
    // One process may hold somewhat more than another before the work begins.
    let peak = Peak::of(run("quantize", least + 2));
    assert!(peak.resident <= (least + 4) * MIB, "{least} MiB are enough by the plan: {peak:?}");
}
