//! Calls between two processes over a socket, with the bytes that they are about in memory that both share.
//!
//! A connection carries one call at a time: a request, then its answer, each a line of JSON behind its length. Bytes lie in
//! the connection's *window*, a piece of memory that both sides map; or in a file that the other side can map itself, such as
//! a checkpoint, of which only the place is told. It knows nothing of what is called.
#![expect(unsafe_code, reason = "memory that another process maps as well")]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use memmap2::MmapMut;
use qhost_plugin_api::abi::{Failure, FailureKind};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::stream::MappedPlace;

/// Messages are documents; what is longer is a mistake.
const LONGEST_MESSAGE: u64 = 1 << 30;

/// Bytes in a file are told by their place from here on: less is copied faster than mapped.
const WORTH_MAPPING: usize = 1 << 14;

/// A call.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) object: u64,
    pub(super) method: String,
    pub(super) arguments: Value,
    /// What the caller does, in words for a crash.
    pub(super) during: String,
    pub(super) inputs: Vec<Bytes>,
    /// Places in the window that the callee fills.
    pub(super) outputs: Vec<Span>,
}

/// What comes of a call.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Response {
    pub(super) outcome: Result<Value, Told>,
    pub(super) blobs: Vec<Bytes>,
}

/// A failure as a message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    kind: u32,
    message: String,
    hint: String,
    subject: String,
    details: String,
}

impl From<Failure> for Told {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind.0,
            message: failure.message.into(),
            hint: failure.hint.into(),
            subject: failure.subject.into(),
            details: failure.details.into(),
        }
    }
}

impl From<Told> for Failure {
    fn from(told: Told) -> Self {
        Self {
            kind: FailureKind(told.kind),
            message: told.message.into(),
            hint: told.hint.into(),
            subject: told.subject.into(),
            details: told.details.into(),
        }
    }
}

/// A place in a window.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) length: usize,
}

/// Where bytes are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Bytes {
    Window(Span),
    File(MappedPlace),
}

/// Memory that two processes map.
#[derive(Debug)]
pub(super) struct Window {
    file: File,
    map: MmapMut,
}

impl Window {
    /// One that belongs to this process until the other has opened it.
    fn new() -> io::Result<Self> {
        // SAFETY: the name is a string with its end, and the descriptor that comes back is nobody else's.
        let file = unsafe {
            let descriptor = libc::memfd_create(c"qhost-window".as_ptr(), libc::MFD_CLOEXEC);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(descriptor)
        };
        file.set_len(1 << 16)?;
        Self::of(file)
    }

    fn of(file: File) -> io::Result<Self> {
        // SAFETY: the bytes are integers, for which every value is valid; whoever writes them is told by the protocol.
        let map = unsafe { MmapMut::map_mut(&file)? };
        Ok(Self { file, map })
    }

    /// Where another process of this user opens it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Makes room for so many bytes; what is in it stays.
    pub(super) fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let present = usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX);
        if bytes > present {
            let longer = bytes.checked_next_power_of_two().unwrap_or(bytes);
            self.file.set_len(longer as u64)?;
        }
        if self.map.len() < bytes.max(present) {
            // SAFETY: as when it was mapped first.
            self.map = unsafe { MmapMut::map_mut(&self.file)? };
        }
        Ok(())
    }

    pub(super) fn bytes(&self, span: Span) -> io::Result<&[u8]> {
        let end = span.start.checked_add(span.length);
        end.and_then(|end| self.map.get(span.start..end)).ok_or_else(|| io::Error::other("bytes outside of the window"))
    }

    pub(super) fn bytes_mut(&mut self, span: Span) -> io::Result<&mut [u8]> {
        let end = span.start.checked_add(span.length);
        let found = end.and_then(|end| self.map.get_mut(span.start..end));
        found.ok_or_else(|| io::Error::other("bytes outside of the window"))
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) window: Window,
}

/// What a caller gets: the answer, and bytes whose number it could not know.
pub(super) type Answered = (Value, Vec<Blob>);

/// Bytes that came with an answer.
#[derive(Debug)]
pub(super) enum Blob {
    Owned(Vec<u8>),
    File(MappedPlace),
}

impl Connection {
    /// Connects to the other process's socket.
    pub(super) fn open(address: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(address)?;
        let window = Window::new()?;
        send(&mut stream, &window.path())?;
        Ok(Self { stream, window })
    }

    /// Takes a connection that the other process has opened.
    pub(super) fn accepted(mut stream: UnixStream) -> io::Result<Self> {
        let path: String = receive(&mut stream)?;
        let window = Window::of(OpenOptions::new().read(true).write(true).open(path)?)?;
        Ok(Self { stream, window })
    }

    /// Calls a method of an object of the other process.
    pub(super) fn call(
        &mut self,
        (object, method, during): (u64, &str, &str),
        arguments: Value,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> io::Result<Result<Answered, Failure>> {
        let mut next = 0;
        let mut place = |length: usize| {
            let span = Span { start: next, length };
            next += length.next_multiple_of(64);
            span
        };
        let places: Vec<_> = inputs
            .iter()
            .map(|bytes| match MappedPlace::of(bytes).filter(|_| bytes.len() >= WORTH_MAPPING) {
                Some(mapped) => Bytes::File(mapped),
                None => Bytes::Window(place(bytes.len())),
            })
            .collect();
        let spans: Vec<_> = outputs.iter().map(|output| place(output.len())).collect();
        self.window.make_room(next)?;
        for (bytes, place) in inputs.iter().zip(&places) {
            if let Bytes::Window(span) = place {
                self.window.bytes_mut(*span)?.copy_from_slice(bytes);
            }
        }
        let (method, during) = (method.to_owned(), during.to_owned());
        let request = Request { object, method, arguments, during, inputs: places, outputs: spans.clone() };
        send(&mut self.stream, &request)?;
        let Response { outcome, blobs } = receive(&mut self.stream)?;
        self.window.make_room(0)?;
        for (span, output) in spans.into_iter().zip(outputs) {
            output.copy_from_slice(self.window.bytes(span)?);
        }
        let blobs = blobs.into_iter().map(|blob| match blob {
            Bytes::Window(span) => Ok(Blob::Owned(self.window.bytes(span)?.to_vec())),
            Bytes::File(place) => Ok(Blob::File(place)),
        });
        let blobs = blobs.collect::<io::Result<Vec<_>>>()?;
        Ok(outcome.map(|value| (value, blobs)).map_err(Failure::from))
    }

    /// Waits for the next call; none when the other process has closed the connection.
    pub(super) fn next(&mut self) -> io::Result<Option<Request>> {
        match receive(&mut self.stream) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            request => {
                let request = request?;
                self.window.make_room(0)?;
                Ok(Some(request))
            }
        }
    }

    /// Answers a call whose outputs have been filled; blobs lie after `used` bytes of the window, unless they are in a file.
    pub(super) fn answer(&mut self, outcome: Result<Value, Failure>, blobs: &[&[u8]], used: usize) -> io::Result<()> {
        let mut next = used;
        let mut places = Vec::new();
        for blob in blobs {
            if let Some(mapped) = MappedPlace::of(blob).filter(|_| blob.len() >= WORTH_MAPPING) {
                places.push(Bytes::File(mapped));
                continue;
            }
            let span = Span { start: next, length: blob.len() };
            next += blob.len().next_multiple_of(64);
            self.window.make_room(next)?;
            self.window.bytes_mut(span)?.copy_from_slice(blob);
            places.push(Bytes::Window(span));
        }
        send(&mut self.stream, &Response { outcome: outcome.map_err(Told::from), blobs: places })
    }
}

fn send(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut text = vec![0; 8];
    serde_json::to_writer(&mut text, message)?;
    let length = (text.len() - 8) as u64;
    text[..8].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&text)
}

fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_MESSAGE {
        return Err(io::Error::other("a message is longer than any is"));
    }
    let mut text = Vec::new();
    stream.take(length).read_to_end(&mut text)?;
    if text.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&text)?)
}
