//! A client that writes the wire itself: any bytes, any files, nothing checked before it is sent.
//!
//! Owns framing requests and telling events apart. It knows no protocol but wl_display and wl_registry, and it
//! neither reads nor writes more than it is told to.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// wl_display.
pub const DISPLAY: u32 = 1;
/// wl_registry, which every client here makes first.
pub const REGISTRY: u32 = 2;
/// Files that go with one socket message at most.
pub const FILES_AT_ONCE: usize = 28;
/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An argument of a request, except for files, which travel beside the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg<'a> {
    /// uint, object, new_id of a known interface.
    U(u32),
    /// int.
    I(i32),
    /// string.
    S(&'a str),
    /// array.
    A(&'a [u8]),
}

/// A request on the wire.
#[must_use]
pub fn message(object: u32, opcode: u16, arguments: &[Arg<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    let array = |body: &mut Vec<u8>, bytes: &[u8], nul: bool| {
        let len = bytes.len() + usize::from(nul);
        body.extend((len as u32).to_ne_bytes());
        body.extend(bytes);
        body.resize(body.len() + len.next_multiple_of(4) - bytes.len(), 0);
    };
    for argument in arguments {
        match argument {
            Arg::U(value) => body.extend(value.to_ne_bytes()),
            Arg::I(value) => body.extend(value.to_ne_bytes()),
            Arg::S(text) => array(&mut body, text.as_bytes(), true),
            Arg::A(bytes) => array(&mut body, bytes, false),
        }
    }
    let mut bytes = object.to_ne_bytes().to_vec();
    bytes.extend((((body.len() as u32 + 8) << 16) | u32::from(opcode)).to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// An event on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Who sent it.
    pub object: u32,
    /// Its number.
    pub opcode: u16,
    /// Its arguments.
    pub body: Vec<u8>,
}

impl Event {
    /// The 32-bit word at `index` of the arguments, 0 if there is none.
    #[must_use]
    pub fn word(&self, index: usize) -> u32 {
        let word = self.body.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok());
        word.map_or(0, u32::from_ne_bytes)
    }

    /// The string whose length is the word at `index`.
    #[must_use]
    pub fn text(&self, index: usize) -> String {
        let len = (self.word(index) as usize).saturating_sub(1);
        let start = index * 4 + 4;
        String::from_utf8_lossy(self.body.get(start..start + len).unwrap_or_default()).into_owned()
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// wl_display.error.
    Error {
        /// The object it was raised on.
        object: u32,
        /// The code of that object's interface.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// Without a word.
    Closed,
}

/// A connection.
#[derive(Debug)]
pub struct Raw {
    socket: UnixStream,
    received: Vec<u8>,
    /// Files that came with events.
    pub files: VecDeque<OwnedFd>,
    /// Interface to number and version.
    pub globals: HashMap<String, (u32, u32)>,
    next: u32,
    free: Vec<u32>,
}

impl Raw {
    /// Takes a connection over and asks for the globals.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub fn over(socket: UnixStream) -> Result<Raw> {
        let mut raw = Raw {
            socket,
            received: Vec::new(),
            files: VecDeque::new(),
            globals: HashMap::new(),
            next: REGISTRY + 1,
            free: Vec::new(),
        };
        raw.send(&message(DISPLAY, 1, &[Arg::U(REGISTRY)]), &[])?;
        let events = raw.roundtrip()?.ok().context("the connection ended at once")?;
        for event in events.iter().filter(|event| (event.object, event.opcode) == (REGISTRY, 0)) {
            let words = 2 + (event.word(1) as usize).div_ceil(4);
            raw.globals.insert(event.text(1), (event.word(0), event.word(words)));
        }
        Ok(raw)
    }

    /// The socket, for whoever wants to do worse.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// The number of a new object.
    pub fn id(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Binds a global at `version`, or the server's if that is less; its object.
    ///
    /// # Errors
    ///
    /// When there is no such global or the connection broke.
    pub fn bind(&mut self, interface: &str, version: u32) -> Result<u32> {
        let (name, most) = *self.globals.get(interface).with_context(|| format!("no {interface}"))?;
        let id = self.id();
        let arguments = [Arg::U(name), Arg::S(interface), Arg::U(version.min(most)), Arg::U(id)];
        self.send(&message(REGISTRY, 0, &arguments), &[])?;
        Ok(id)
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// As [`Raw::send`].
    pub fn request(&mut self, object: u32, opcode: u16, arguments: &[Arg<'_>]) -> Result<()> {
        self.send(&message(object, opcode, arguments), &[])
    }

    /// Sends bytes with files, waiting for room as long as it takes; files beyond [`FILES_AT_ONCE`] are an error. A
    /// server that has closed the connection is none: what it said is still to be read.
    ///
    /// # Errors
    ///
    /// When the socket fails in another way, or there is no room for ten seconds.
    pub fn send(&mut self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
        ensure!(files.len() <= FILES_AT_ONCE, "{} files at once", files.len());
        let mut sent = 0;
        let deadline = Instant::now() + PATIENCE;
        while sent < bytes.len() {
            let with = if sent == 0 { files } else { &[] };
            match send_some(&self.socket, &bytes[sent..], with) {
                Ok(count) => sent += count,
                Err(rustix::io::Errno::AGAIN) => {
                    ensure!(Instant::now() < deadline, "the server does not read");
                    wait(&self.socket, PollFlags::OUT, Duration::from_millis(100))?;
                }
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Ok(()),
                Err(err) => return Err(err).context("cannot send"),
            }
        }
        Ok(())
    }

    /// The events that are there, or come within `time`; none if nothing comes. `Err` inside when the connection
    /// ended.
    ///
    /// # Errors
    ///
    /// When the socket fails.
    pub fn read(&mut self, time: Duration) -> Result<std::result::Result<Vec<Event>, End>> {
        let mut events = Vec::new();
        let ended = loop {
            events.extend(self.parse());
            if !events.is_empty() {
                break false;
            }
            if !wait(&self.socket, PollFlags::IN, time)? {
                break false;
            }
            match self.receive()? {
                Some(true) => {}
                Some(false) => break true,
                None => break false,
            }
        };
        for event in &events {
            if (event.object, event.opcode) == (DISPLAY, 0) {
                let (object, code) = (event.word(0), event.word(1));
                return Ok(Err(End::Error { object, code, message: event.text(2) }));
            }
            if (event.object, event.opcode) == (DISPLAY, 1) {
                self.free.push(event.word(0));
            }
        }
        Ok(if ended && events.is_empty() { Err(End::Closed) } else { Ok(events) })
    }

    /// Waits until the server has handled everything sent so far; what came meanwhile, or how it ended.
    ///
    /// # Errors
    ///
    /// When no answer comes or the socket fails.
    pub fn roundtrip(&mut self) -> Result<std::result::Result<Vec<Event>, End>> {
        self.roundtrip_within(PATIENCE)
    }

    /// [`Raw::roundtrip`] with a limit of its own.
    ///
    /// # Errors
    ///
    /// As [`Raw::roundtrip`].
    pub fn roundtrip_within(&mut self, limit: Duration) -> Result<std::result::Result<Vec<Event>, End>> {
        let callback = self.id();
        self.request(DISPLAY, 0, &[Arg::U(callback)])?;
        let mut all = Vec::new();
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no answer to a round trip; so far {} events", all.len());
            match self.read(left)? {
                Ok(events) => {
                    let done = events.iter().any(|e| (e.object, e.opcode) == (callback, 0));
                    all.extend(events);
                    if done {
                        return Ok(Ok(all));
                    }
                }
                Err(end) => return Ok(Err(end)),
            }
        }
    }

    /// Waits until the connection ends.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn end(&mut self) -> Result<End> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Err(end) = self.read(Duration::from_millis(100))? {
                return Ok(end);
            }
        }
        bail!("the connection goes on")
    }

    /// Reads once: false at the end, `None` when there is nothing.
    fn receive(&mut self) -> Result<Option<bool>> {
        let mut buffer = [0; 16384];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let count = match recvmsg(&self.socket, &mut slices, &mut control, flags) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(err) if std::io::Error::from(err).kind() == ErrorKind::ConnectionReset => 0,
            Err(err) => return Err(err).context("cannot read"),
        };
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = ancillary {
                self.files.extend(files);
            }
        }
        self.received.extend_from_slice(&buffer[..count]);
        Ok(Some(count > 0))
    }

    fn parse(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut at = 0;
        while let Some(head) = self.received.get(at..at + 8) {
            let word = |i: usize| u32::from_ne_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
            let (object, len) = (word(0), (word(4) >> 16) as usize);
            let Some(body) = self.received.get(at + 8..at + len.max(8)).filter(|_| len >= 8) else { break };
            events.push(Event { object, opcode: word(4) as u16, body: body.to_vec() });
            at += len;
        }
        self.received.drain(..at);
        events
    }
}

/// Sends once, without waiting.
///
/// # Errors
///
/// The socket's.
pub fn send_some(socket: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_AT_ONCE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(rustix::io::Errno::TOOBIG);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

fn wait(socket: &UnixStream, what: PollFlags, time: Duration) -> Result<bool> {
    let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    let mut fds = [PollFd::new(socket, what)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(err) => Err(err).context("cannot wait"),
    }
}

/// `count` times the same file, to send.
#[must_use]
pub fn copies<'a>(file: &'a impl AsFd, count: usize) -> Vec<BorrowedFd<'a>> {
    vec![file.as_fd(); count]
}
