//! Signals of the system that would end the process without a word: when the pages of a mapped file cannot be read, because
//! somebody has cut the file short or its disk has failed (SIGBUS), and when a file grows beyond a limit (SIGXFSZ).
//!
//! Elsewhere than on Linux they still do.

/// Has SIGBUS end the process with a message and the exit code for incomplete input, and files that grow too large be an
/// error like any other of the disk.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no other way to set a signal's handler")]
pub fn answer(as_json: bool) {
    let handler: extern "C" fn(libc::c_int) = if as_json { end_in_json } else { end_in_words };
    // SAFETY: all bytes zero are a valid `sigaction`, and the fields that matter are set.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    // The standard library gives every thread a stack of its own for signals.
    action.sa_flags = libc::SA_ONSTACK;
    // SAFETY: the handlers call nothing but write and _exit, which may be called in a handler.
    let set = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if set != 0 {
        tracing::debug!("SIGBUS will end the process without a message");
    }
    // SAFETY: nothing is called when it comes. It cannot fail for a signal that there is.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Nothing can be done here.
#[cfg(not(target_os = "linux"))]
pub fn answer(_: bool) {}

#[cfg(target_os = "linux")]
extern "C" fn end_in_words(_: libc::c_int) {
    end(
        libc::STDERR_FILENO,
        "\nerror: a file of the model was cut short while it was read, or its disk has failed\n\
         hint: fetch the file again, then run the same command; finished work is kept if nothing else has changed\n",
    );
}

#[cfg(target_os = "linux")]
extern "C" fn end_in_json(_: libc::c_int) {
    end(
        libc::STDOUT_FILENO,
        "{\n  \"code\": 5,\n  \"details\": null,\n  \"hint\": \"fetch the file again, then run the same command; \
         finished work is kept if nothing else has changed\",\n  \"message\": \"a file of the model was cut short \
         while it was read, or its disk has failed\",\n  \"schema\": \"qhost.error/1\",\n  \"status\": \"error\"\n}\n",
    );
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "in a signal's handler only the system's own calls are allowed")]
fn end(to: libc::c_int, text: &str) -> ! {
    // SAFETY: the pointer and the length are those of a string that lives for ever; both calls are
    // allowed in a handler. Whether the text arrives does not matter: the exit code tells.
    unsafe {
        libc::write(to, text.as_ptr().cast(), text.len());
        libc::_exit(crate::exit_code::ExitCode::Corrupt as libc::c_int)
    }
}
