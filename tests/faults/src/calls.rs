//! The calls that change what is on a disk, and which file each is about.

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Kind {
    /// Opens for writing, or makes a file.
    Open,
    Write,
    /// Waits for the disk.
    Sync,
    /// Sets a file's length.
    Truncate,
    /// Sets blocks aside.
    Allocate,
    Lock,
    Rename,
    Mkdir,
    /// Removes a file or an empty folder.
    Remove,
}

impl Kind {
    pub(crate) const ALL: [(&str, Self); 9] = [
        ("open", Self::Open),
        ("write", Self::Write),
        ("sync", Self::Sync),
        ("truncate", Self::Truncate),
        ("allocate", Self::Allocate),
        ("lock", Self::Lock),
        ("rename", Self::Rename),
        ("mkdir", Self::Mkdir),
        ("remove", Self::Remove),
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(of, _)| *of == name).map(|(_, kind)| kind)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

/// Where among a call's arguments its file is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum File {
    /// An open file.
    Open(usize),
    /// A path.
    Path(usize),
    /// A path below an open folder, which is the argument before it.
    Below(usize),
}

/// A call that is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) kind: Kind,
    pub(crate) file: File,
    /// The argument that has the flags of opening.
    pub(crate) flags: Option<usize>,
}

const fn call(number: i64, kind: Kind, file: File) -> Call {
    Call { number, kind, file, flags: None }
}

const fn opening(number: i64, file: File, flags: usize) -> Call {
    Call { number, kind: Kind::Open, file, flags: Some(flags) }
}

/// All that are watched.
pub(crate) const CALLS: [Call; 23] = [
    opening(libc::SYS_open, File::Path(0), 1),
    opening(libc::SYS_openat, File::Below(1), 2),
    call(libc::SYS_creat, Kind::Open, File::Path(0)),
    call(libc::SYS_write, Kind::Write, File::Open(0)),
    call(libc::SYS_pwrite64, Kind::Write, File::Open(0)),
    call(libc::SYS_writev, Kind::Write, File::Open(0)),
    call(libc::SYS_pwritev, Kind::Write, File::Open(0)),
    call(libc::SYS_copy_file_range, Kind::Write, File::Open(2)),
    call(libc::SYS_sendfile, Kind::Write, File::Open(0)),
    call(libc::SYS_fsync, Kind::Sync, File::Open(0)),
    call(libc::SYS_fdatasync, Kind::Sync, File::Open(0)),
    call(libc::SYS_truncate, Kind::Truncate, File::Path(0)),
    call(libc::SYS_ftruncate, Kind::Truncate, File::Open(0)),
    call(libc::SYS_fallocate, Kind::Allocate, File::Open(0)),
    call(libc::SYS_flock, Kind::Lock, File::Open(0)),
    // A move is known by its origin: what is moved into the folder comes from it.
    call(libc::SYS_rename, Kind::Rename, File::Path(0)),
    call(libc::SYS_renameat, Kind::Rename, File::Below(1)),
    call(libc::SYS_renameat2, Kind::Rename, File::Below(1)),
    call(libc::SYS_mkdir, Kind::Mkdir, File::Path(0)),
    call(libc::SYS_mkdirat, Kind::Mkdir, File::Below(1)),
    call(libc::SYS_unlink, Kind::Remove, File::Path(0)),
    call(libc::SYS_unlinkat, Kind::Remove, File::Below(1)),
    call(libc::SYS_rmdir, Kind::Remove, File::Path(0)),
];

impl Call {
    /// Whether the call changes anything; opening for reading does not.
    pub(crate) fn changes(&self, arguments: &[i64; 6]) -> bool {
        let writing = i64::from(libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC);
        self.flags.is_none_or(|flags| arguments[flags] & writing != 0)
    }
}
