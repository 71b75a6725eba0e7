//! A process that a plugin runs in: waiting for its end, and hearing what it says.

use std::{
    io::{self, Read},
    process::{Child, ExitStatus},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// More than any process says that ends as it should.
const MOST_BYTES: u64 = 16 << 20;

/// Waits for a process so long at most.
///
/// # Errors
/// Fails when the system does not tell.
pub fn wait(child: &mut Child, most: Duration) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        match child.try_wait()? {
            None if began.elapsed() < most => thread::sleep(Duration::from_millis(5)),
            ended => return Ok(ended),
        }
    }
}

/// Hears all that a process says, so that it never waits for room.
///
/// # Errors
/// Fails when the system has no thread for it.
pub fn hear(pipe: Option<impl Read + Send + 'static>) -> io::Result<JoinHandle<Vec<u8>>> {
    thread::Builder::new().name("output".into()).spawn(move || {
        let mut bytes = Vec::new();
        // What was said until the pipe broke is worth more than an error.
        let _ = pipe.map(|pipe| pipe.take(MOST_BYTES).read_to_end(&mut bytes));
        bytes
    })
}
