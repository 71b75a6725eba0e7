//! Catching calls on their way to the kernel.
//!
//! A seccomp filter has the kernel send SIGSYS in place of the calls in question. The signal's handler decides, and makes
//! the call itself where it is to be made, with a mark in an argument that none of them uses: so it passes the filter.

use std::arch::asm;

use crate::{
    PLAN,
    calls::{CALLS, Call, File},
    plan::{Plan, What},
};

/// The mark in the sixth argument.
const MARK: i64 = 0x7168_6f73;
/// The longest path that is looked at.
const PATH: usize = 4096;

/// Sets the trap, for this process and all threads that it will have.
pub(crate) fn set() -> Result<(), ()> {
    // SAFETY: all bytes zero are a valid `sigaction`, and the fields that matter are set.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = caught;
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    // Another signal's handler may call the system while this one is at work.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: the handler calls nothing but the system, and allocates nothing.
    let set = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    let mut program = filter();
    let program = libc::sock_fprog { len: u16::try_from(program.len()).map_err(drop)?, filter: program.as_mut_ptr() };
    // SAFETY: it takes numbers alone.
    let allowed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program lives until the kernel has read it.
    let filtered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if (set, allowed, filtered) == (0, 0, 0) { Ok(()) } else { Err(()) }
}

/// Traps the calls of the table, unless they have the mark; allows everything else.
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NUMBER: u32 = 0;
    /// The lower half of the sixth argument.
    const SIXTH: u32 = 16 + 5 * 8;
    let line = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![line(LOAD, NUMBER, 0, 0)];
    for (index, call) in CALLS.iter().enumerate() {
        // Over the rest of the table, and over the return after it.
        let ahead = u8::try_from(CALLS.len() - index).unwrap_or(u8::MAX);
        program.push(line(JUMP_IF_EQUAL, u32::try_from(call.number).unwrap_or(u32::MAX), ahead, 0));
    }
    program.push(line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program.push(line(LOAD, SIXTH, 0, 0));
    program.push(line(JUMP_IF_EQUAL, u32::try_from(MARK).unwrap_or(u32::MAX), 0, 1));
    program.push(line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program.push(line(RETURN, libc::SECCOMP_RET_TRAP, 0, 0));
    program
}

extern "C" fn caught(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands the handler its thread's registers, which nobody else uses meanwhile.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = |register: i32| usize::try_from(register).unwrap_or(0);
    let names = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9];
    let arguments = names.map(|name| registers[at(name)]);
    let number = registers[at(libc::REG_RAX)];
    registers[at(libc::REG_RAX)] = answer(number, &arguments);
}

/// What the process gets for its call.
fn answer(number: i64, arguments: &[i64; 6]) -> i64 {
    let (Some(plan), Some(call)) = (PLAN.get(), CALLS.iter().find(|call| call.number == number)) else {
        return make(number, arguments);
    };
    let mut path = Text::new();
    path.push_path_of(call, arguments);
    if !call.changes(arguments) || !path.as_bytes().starts_with(&plan.folder) {
        return make(number, arguments);
    }
    let what = plan.next(call.kind);
    note(plan, call, what.is_some(), path.as_bytes());
    match what {
        None => make(number, arguments),
        Some(What::Error(error)) => -i64::from(error),
        Some(What::Short) => make_half(number, arguments),
        Some(What::Kill) => end(),
        Some(What::Killed) => {
            make(number, arguments);
            end()
        }
        Some(What::Torn) => {
            make_half(number, arguments);
            end()
        }
    }
}

/// Ends the process at once.
fn end() -> i64 {
    let process = make(libc::SYS_getpid, &[0; 6]);
    make(libc::SYS_kill, &[process, i64::from(libc::SIGKILL), 0, 0, 0, 0])
}

/// Writes a call down: what kind it is, whether something was done to it, and its file.
fn note(plan: &Plan, call: &Call, hit: bool, path: &[u8]) {
    let Some(log) = plan.log else { return };
    let mut line = Text::new();
    for part in [call.kind.name().as_bytes(), if hit { b" ! " } else { b" - " }, path, b"\n"] {
        line.push(part);
    }
    make(libc::SYS_write, &[log.into(), line.bytes.as_ptr() as i64, number(line.length), 0, 0, 0]);
}

/// Makes a call of writing with half of its bytes, at least one.
fn make_half(number: i64, arguments: &[i64; 6]) -> i64 {
    let mut arguments = *arguments;
    match number {
        libc::SYS_write | libc::SYS_pwrite64 => arguments[2] = (arguments[2] / 2).max(1.min(arguments[2])),
        // The first of the pieces alone.
        libc::SYS_writev | libc::SYS_pwritev => arguments[2] = 1.min(arguments[2]),
        _ => {}
    }
    make(number, &arguments)
}

/// Makes a call.
fn make(number: i64, arguments: &[i64; 6]) -> i64 {
    let [first, second, third, fourth, fifth, _] = *arguments;
    let result;
    // SAFETY: it is the call that the process has made, with the process's own arguments, or one of this file; the kernel
    // changes no other registers than these.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first, in("rsi") second, in("rdx") third, in("r10") fourth, in("r8") fifth, in("r9") MARK,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A length as an argument.
fn number(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Text on the stack, for a handler may not allocate. What does not fit is left out.
struct Text {
    bytes: [u8; PATH],
    length: usize,
}

impl Text {
    fn new() -> Self {
        Self { bytes: [0; PATH], length: 0 }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, more: &[u8]) {
        let room = &mut self.bytes[self.length..];
        let taken = more.len().min(room.len());
        room[..taken].copy_from_slice(&more[..taken]);
        self.length += taken;
    }

    fn push_number(&mut self, number: i64) {
        let mut digits = [0; 20];
        let (mut first, mut rest) = (digits.len(), number.unsigned_abs());
        loop {
            first -= 1;
            digits[first] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }

    fn push_path_of(&mut self, call: &Call, arguments: &[i64; 6]) {
        match call.file {
            File::Open(index) => self.push_link(Some(arguments[index])),
            File::Path(index) => self.push_path(None, arguments[index]),
            File::Below(index) => {
                // A descriptor is an `int`, whatever the upper half of its register holds.
                #[expect(clippy::cast_possible_truncation, reason = "that half is to go")]
                let folder = arguments[index - 1] as i32;
                self.push_path((folder != libc::AT_FDCWD).then_some(folder.into()), arguments[index]);
            }
        }
    }

    /// A path as it was given, below a folder or the working directory if it is relative.
    fn push_path(&mut self, folder: Option<i64>, path: i64) {
        // SAFETY: what is given to the system as a path is a text that ends with a zero.
        let path = unsafe { std::ffi::CStr::from_ptr(path as *const libc::c_char) }.to_bytes();
        if !path.starts_with(b"/") {
            self.push_link(folder);
            self.push(b"/");
        }
        self.push(path);
    }

    /// Where an open file is, or the working directory.
    fn push_link(&mut self, open: Option<i64>) {
        let mut link = Self::new();
        match open {
            Some(number) => {
                link.push(b"/proc/self/fd/");
                link.push_number(number);
            }
            None => link.push(b"/proc/self/cwd"),
        }
        link.push(b"\0");
        let room = &mut self.bytes[self.length..];
        let arguments = [link.bytes.as_ptr() as i64, room.as_mut_ptr() as i64, number(room.len()), 0, 0, 0];
        self.length += usize::try_from(make(libc::SYS_readlink, &arguments)).unwrap_or(0);
    }
}
