//! The `qhost` executable.

fn main() -> std::process::ExitCode {
    qhost::cli::main().into()
}
