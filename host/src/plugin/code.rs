//! Where the code of loaded plugins lies in memory, and whose code a thread runs that the host has not called anything on:
//! its stack tells, for there are addresses in it that a plugin's code is to be returned to.
//!
//! What is looked up here is looked up in a signal's handler: it takes no memory and no lock, and reads a stack through the
//! system, which knows where it ends. It knows nothing of calls and verdicts but whose they are.
#![expect(unsafe_code, reason = "a stack is read from outside")]

use std::{
    fs,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::Path,
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use super::calls::{Call, Caller};

/// How much of a stack is looked at, from its top on.
const DEPTH: usize = 256 << 10;

/// Addresses that are read at once: a signal's own stack has little room.
const WORDS: usize = 64;

/// A library's code, in a list that only grows.
struct Code {
    addresses: Range<usize>,
    /// Stands for what the plugin does outside of calls.
    call: Call,
    next: *mut Code,
}

static FIRST: AtomicPtr<Code> = AtomicPtr::new(ptr::null_mut());

/// Remembers where a library is that has just been loaded. What cannot be found out is not known later.
pub(super) fn remember(caller: &'static Caller, path: &Path) {
    let (Ok(maps), Ok(file)) = (fs::read_to_string("/proc/self/maps"), fs::metadata(path)) else { return };
    for addresses in maps.lines().filter_map(|line| code_of(line, file.ino())) {
        let call = Call::unknown(caller, "on a thread of its own");
        let code = Box::leak(Box::new(Code { addresses, call, next: ptr::null_mut() }));
        // Others may add theirs at the same time.
        let mut first = FIRST.load(Ordering::Acquire);
        loop {
            code.next = first;
            match FIRST.compare_exchange(first, code, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => first = now,
            }
        }
    }
}

/// The addresses of a line of `/proc/self/maps`, if it is of that file and may be run.
fn code_of(line: &str, inode: u64) -> Option<Range<usize>> {
    // 7f1c7a400000-7f1c7a4d3000 r-xp 00026000 fe:00 131124    /usr/lib/libx.so
    let mut columns = line.split_ascii_whitespace();
    let (addresses, rights) = (columns.next()?, columns.next()?);
    let found: u64 = columns.nth(2)?.parse().ok()?;
    let (start, end) = addresses.split_once('-')?;
    let parse = |text| usize::from_str_radix(text, 16).ok();
    (found == inode && rights.contains('x')).then_some(parse(start)?..parse(end)?)
}

/// What stands for the calls of the plugin whose code is nearest to the top of a stack, if any plugin's is near.
pub(super) fn of_stack(top: usize) -> Option<&'static Call> {
    if FIRST.load(Ordering::Acquire).is_null() {
        return None;
    }
    let mut words = [0_usize; WORDS];
    let size = size_of_val(&words);
    // Addresses lie at multiples of their size.
    let top = top - top % size_of::<usize>();
    for start in (top..top.checked_add(DEPTH)?).step_by(size) {
        let to = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size };
        let from = libc::iovec { iov_base: ptr::without_provenance_mut(start), iov_len: size };
        // SAFETY: it writes into `words`, and answers with an error where there is nothing to be read.
        let read = unsafe { libc::process_vm_readv(libc::getpid(), &raw const to, 1, &raw const from, 1, 0) };
        let read = usize::try_from(read).unwrap_or(0) / size_of::<usize>();
        if let Some(call) = words.iter().take(read).find_map(|address| of_address(*address)) {
            return Some(call);
        }
        if read < WORDS {
            break;
        }
    }
    None
}

/// What stands for the calls of the plugin that has code at an address.
pub(super) fn of_address(address: usize) -> Option<&'static Call> {
    let mut at = FIRST.load(Ordering::Acquire);
    // SAFETY: what is in the list stays there for ever.
    while let Some(code) = unsafe { at.as_ref() } {
        if code.addresses.contains(&address) {
            return Some(&code.call);
        }
        at = code.next;
    }
    None
}

/// The next instruction of a thread and the top of its stack, as a signal's handler is told of them.
#[cfg(target_arch = "x86_64")]
pub(super) fn registers(context: *mut libc::c_void) -> Option<(usize, usize)> {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the system gives a valid pointer to the handler.
    let registers = &unsafe { context.as_ref() }?.uc_mcontext.gregs;
    let register = |index: libc::c_int| registers.get(usize::try_from(index).ok()?).map(|value| value.cast_unsigned());
    let address = |index| register(index).and_then(|value| usize::try_from(value).ok());
    Some((address(libc::REG_RIP)?, address(libc::REG_RSP)?))
}

/// As above.
#[cfg(target_arch = "aarch64")]
pub(super) fn registers(context: *mut libc::c_void) -> Option<(usize, usize)> {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the system gives a valid pointer to the handler.
    let registers = &unsafe { context.as_ref() }?.uc_mcontext;
    Some((usize::try_from(registers.pc).ok()?, usize::try_from(registers.sp).ok()?))
}

/// Not known of others.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn registers(_: *mut libc::c_void) -> Option<(usize, usize)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_run_of_that_file_is_its_code() {
        let line = "7f1c7a400000-7f1c7a4d3000 r-xp 00026000 fe:00 131124                     /usr/lib/lib x.so";
        assert_eq!(code_of(line, 131_124), Some(0x7f1c_7a40_0000..0x7f1c_7a4d_3000));
        assert_eq!(code_of(line, 131_125), None);
        assert_eq!(code_of(&line.replace("r-xp", "r--p"), 131_124), None);
        for line in ["", "7f1c7a400000", "7f1c7a400000-x r-xp 0 fe:00 1", "1-2 r-xp 0 fe:00"] {
            assert_eq!(code_of(line, 1), None, "{line}");
        }
    }

    /// The test program itself stands for a plugin: its code is on its threads' stacks.
    #[test]
    fn a_stack_tells_whose_code_a_thread_runs() {
        let top = || {
            let here = 0_u8;
            ptr::from_ref(std::hint::black_box(&here)).addr()
        };
        assert!(of_stack(top()).is_none());
        let caller: &'static Caller =
            Box::leak(Box::new(Caller { name: "`x` 1.0.0".into(), members: String::new(), verdict: None }));
        remember(caller, &std::env::current_exe().unwrap());
        let found = std::thread::spawn(move || of_stack(top()).map(|call| ptr::eq(call.caller, caller)));
        assert_eq!(found.join().unwrap(), Some(true));
        // A stack that is nowhere.
        assert!(of_stack(8).is_none() && of_stack(usize::MAX - 16).is_none());
    }
}
