//! The clients: taking them in, giving each its turn, and keeping each within its quotas.
//!
//! ```text
//!            Source::Client                whole messages, a slice at a time
//!  client ────────────────> Relay (input) ─────────────────────────────────> socket pair ──> Wayland library
//!  client <──────────────── Relay (output) <──────────────────────────────── socket pair <──── (dispatch, flush)
//! ```
//!
//! A client that sends no more than a slice is served as soon as it is heard. One that sends more waits in a queue
//! whose clients share a millisecond of each turn of the event loop, so that frames and other clients come in
//! between. Clients that can be seen have a queue of their own, which goes first: a screen that others keep busy still shows
//! their frames in time. What a client leaves unread waits in the relay, up to a limit.
//!
//! Owns: connections, turns, disconnecting. Does not own: what requests do (`handlers`).

mod limits;
mod relay;
mod telling;
mod usage;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::CString;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::process::{Resource as SystemResource, getrlimit};
use smithay::reexports::wayland_server::backend::{ClientId, ObjectId};
use smithay::reexports::wayland_server::protocol::wl_data_offer::WlDataOffer;
use smithay::reexports::wayland_server::protocol::wl_registry::WlRegistry;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{Client, Display, Resource as _};

use crate::reactor::{Source, Watch};
use crate::state::State;
pub use limits::{LimitArg, Limits};
use relay::{Header, Malformed, Read, Relay, Scratch};
pub use usage::{ClientState, Credentials};

/// A connection's number, never used again.
pub(crate) type Key = u64;

/// Messages that a client may have handled before others have their turn; fewer, down to one, while its messages take long.
const SLICE: usize = 64;
/// Files of a process that are no reason to end it rather than others that cannot be seen.
const MODEST: u64 = 64;
/// How long all clients together may keep the event loop from its other work.
const TURN: Duration = Duration::from_millis(1);
/// Messages after which the time that they took is looked at, of however many clients they are: a system call where there is no
/// vDSO. A client whose slices were too long is looked at by itself.
const UNTIMED: usize = SLICE / 2;
/// A slice that takes longer is too long.
const LONG_SLICE: Duration = Duration::from_millis(2);
/// Bytes of requests after which a client's objects are counted: they make no more than some thousand objects.
const BYTES_BETWEEN_COUNTS: usize = 64 * 1024;
/// Open files of a connection that does nothing.
const FILES_OF_CONNECTION: u64 = 3;

/// Codes of wl_display's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum DisplayError {
    InvalidMethod = 1,
    NoMemory = 2,
    Implementation = 3,
}

/// A connection.
#[derive(Debug)]
struct Connection {
    client: Client,
    relay: Relay,
    /// Its socket is watched for room to write, because there is something left to send.
    backlog: bool,
    /// It waits in the queue.
    queued: bool,
    /// Its next message is a roundtrip, which waits for buffers of its that are being imported.
    held: bool,
    /// Its last requests are likely to be answered.
    answers: bool,
    /// Bytes since its objects were counted.
    uncounted: usize,
    /// Messages of its next slice.
    slice: usize,
    /// It was one of several whose slices together took long: its next one is looked at by itself.
    suspected: bool,
}

impl Connection {
    /// What its socket is watched for. A client that is held is still heard hanging up.
    fn interest(&self) -> EventFlags {
        let input = if self.held { EventFlags::empty() } else { EventFlags::IN };
        let output = if self.backlog { EventFlags::OUT } else { EventFlags::empty() };
        input | output
    }
}

/// All clients.
pub struct Clients {
    display: Rc<RefCell<Display<State>>>,
    watch: Watch,
    limits: Limits,
    connections: BTreeMap<Key, Connection>,
    next: Key,
    /// Those who wait for their turn, or have more to say than a slice.
    queue: VecDeque<Key>,
    /// Those who wait for their turn and can be seen: their next frames depend on it.
    seen: VecDeque<Key>,
    /// Who has a surface that can be seen.
    visible: Vec<Key>,
    /// Those who are likely to be told something this turn.
    told: Vec<Key>,
    /// Those who have asked this turn for nothing that is answered, but have let go of objects: the library confirms that.
    let_go: Vec<Key>,
    /// Those to whom that is said with the call that is due soon, and when everybody hears everything at the latest.
    held_back: (Vec<Key>, Option<Duration>),
    gone: Arc<Mutex<Vec<Key>>>,
    /// Time that slices of this turn have taken.
    spent: Duration,
    /// Whose slices have not been charged yet, and how many messages those were.
    uncharged: (Vec<Key>, usize),
    scratch: Scratch,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients")
            .field("limits", &self.limits)
            .field("connections", &self.connections.len())
            .finish()
    }
}

/// Why a client is sent away.
#[derive(Debug)]
enum End {
    /// It hung up, or its socket broke.
    HungUp,
    /// With an error of wl_display.
    Error(DisplayError, String),
}

impl Clients {
    /// No clients yet.
    pub fn new(display: Display<State>, watch: Watch, mut limits: Limits) -> Self {
        if let Some(most) = getrlimit(SystemResource::Nofile).current {
            limits.open_files = limits.open_files.min(most);
        }
        Self {
            display: Rc::new(RefCell::new(display)),
            watch,
            limits,
            connections: BTreeMap::new(),
            next: 0,
            queue: VecDeque::new(),
            seen: VecDeque::new(),
            visible: Vec::new(),
            told: Vec::new(),
            let_go: Vec::new(),
            held_back: (Vec::new(), None),
            gone: Arc::default(),
            spent: Duration::ZERO,
            uncharged: (Vec::new(), 0),
            scratch: Scratch::default(),
        }
    }

    /// Connections.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// The quotas.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A surface of this client can be seen.
    pub(crate) fn is_visible(&self, key: Key) -> bool {
        self.visible.contains(&key)
    }

    /// The numbers of those who have more to say, and wait for their turns.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = u64> {
        self.queue.iter().chain(&self.seen).copied()
    }

    /// Somebody waits for a turn.
    pub(crate) fn has_queue(&self) -> bool {
        !(self.queue.is_empty() && self.seen.is_empty())
    }

    /// The owner of `surface` is being told something: it goes out at the end of this turn.
    pub(crate) fn told(&mut self, surface: &WlSurface) {
        if let Some(key) = key_of(surface)
            && !self.told.contains(&key)
        {
            self.told.push(key);
        }
    }

    /// The turn's time is used up.
    fn late(&self) -> bool {
        self.spent > TURN
    }

    /// None of a client's last slices was too long, for all that is known.
    fn is_trusted(&self, key: Key) -> bool {
        self.connections
            .get(&key)
            .is_some_and(|connection| connection.slice == SLICE && !connection.suspected)
    }

    /// The slices since the last charge took so long: a client's next one is shorter, or longer again. Which of several took
    /// long shows when they are looked at one by one.
    fn charge(&mut self, took: Duration) {
        self.spent += took;
        let (keys, messages) = &mut self.uncharged;
        *messages = 0;
        let (long, several) = (took > LONG_SLICE, keys.len() > 1);
        for key in keys.drain(..) {
            if let Some(connection) = self.connections.get_mut(&key) {
                connection.suspected = long && several;
                match (long, several) {
                    (true, true) => {}
                    (true, false) => connection.slice = (connection.slice / 4).max(1),
                    (false, _) => connection.slice = (connection.slice * 2).min(SLICE),
                }
            }
        }
    }

    /// Those whose surfaces can be seen now have their turns first, as long as they do not ask for more than a slice.
    pub(crate) fn set_visible<'a>(&mut self, surfaces: impl Iterator<Item = &'a WlSurface>) {
        self.visible.clear();
        for surface in surfaces {
            if let Some(key) = key_of(surface)
                && !self.visible.contains(&key)
            {
                self.visible.push(key);
            }
        }
    }

    /// Puts a client at the end of the queue.
    fn enqueue(&mut self, key: Key) {
        if self.starts_waiting(key) {
            self.queue.push_back(key);
        }
    }

    /// Puts a client that has something to say for the first time since its last turn into the queue of its kind.
    fn enqueue_fresh(&mut self, key: Key) {
        if self.starts_waiting(key) {
            let queue = if self.is_visible(key) { &mut self.seen } else { &mut self.queue };
            queue.push_back(key);
        }
    }

    /// Marks a client as waiting; says whether it did not wait yet.
    fn starts_waiting(&mut self, key: Key) -> bool {
        let connection = self.connections.get_mut(&key);
        connection.is_some_and(|connection| !std::mem::replace(&mut connection.queued, true))
    }

    /// Who is next; when the turn is late, each queue still has one.
    fn next(&mut self, had: &mut [bool; 2]) -> Option<Key> {
        let late = self.late();
        for (queue, had) in [&mut self.seen, &mut self.queue].into_iter().zip(had) {
            if !(late && *had)
                && let Some(key) = queue.pop_front()
            {
                *had = true;
                return Some(key);
            }
        }
        None
    }

    /// Watches a client's socket for what it is to be watched for now.
    fn update_interest(&self, key: Key) {
        let Some(connection) = self.connections.get(&key) else { return };
        let changed =
            self.watch.change(connection.relay.client(), Source::Client(key), connection.interest());
        if let Err(err) = changed {
            tracing::error!(%err, "a client is not heard any more");
        }
    }
}

impl State {
    /// Takes a client in over its end of a socket pair; says whether there are files for more.
    pub(crate) fn take_client(&mut self, stream: UnixStream) -> bool {
        let clients = &mut self.runtime.clients;
        if stream.as_raw_fd() as u64 >= clients.limits.files_before_reserve() {
            tracing::warn!("a client was not accepted: too many open files");
            drop(stream);
            self.disconnect_hoarder(None);
            return false;
        }
        let clients = &mut self.runtime.clients;
        let credentials = rustix::net::sockopt::socket_peercred(&stream)
            .map(|c| Credentials { pid: c.pid.as_raw_nonzero().get(), uid: c.uid.as_raw() })
            .ok();
        let key = clients.next;
        clients.next += 1;
        let (relay, theirs) = match Relay::new(stream) {
            Ok(pair) => pair,
            Err(err) => {
                tracing::warn!(%err, "client not accepted");
                return false;
            }
        };
        let data = ClientState::new(key, clients.limits, credentials, clients.gone.clone());
        let client = match self.runtime.display.insert_client(theirs, Arc::new(data)) {
            Ok(client) => client,
            Err(err) => {
                tracing::warn!(%err, "client not accepted");
                return false;
            }
        };
        let connection = Connection {
            client,
            relay,
            backlog: false,
            queued: false,
            held: false,
            answers: false,
            uncounted: 0,
            slice: SLICE,
            suspected: false,
        };
        let (socket, library) = (connection.relay.client(), connection.relay.library());
        let watched = clients.watch.add(socket, Source::Client(key), connection.interest());
        let watched = watched.and_then(|()| clients.watch.add(library, Source::Library(key), EventFlags::IN));
        clients.connections.insert(key, connection);
        if let Err(err) = watched {
            tracing::warn!(%err, "client not accepted");
            self.end_client(key, End::HungUp);
            return false;
        }
        true
    }

    /// What is kept for a client that is still there.
    pub(crate) fn client_state(&self, client: ClientId) -> Option<Arc<ClientState>> {
        let data = self.runtime.display.backend_handle().get_client_data(client).ok()?;
        data.downcast_arc::<ClientState>().ok()
    }

    /// Something happened on a client's socket.
    pub(crate) fn client_ready(&mut self, key: Key, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.client_writable(key);
        }
        let clients = &mut self.runtime.clients;
        let Some(connection) = clients.connections.get(&key) else { return };
        if connection.held {
            // What it has said before does not matter any more.
            if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                self.end_client(key, End::HungUp);
                self.bury();
            }
            return;
        }
        // Who waits in the queue is served from there.
        if connection.queued || !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        if clients.late() {
            clients.enqueue_fresh(key);
        } else {
            self.serve_client(key);
        }
    }

    /// Handles a slice of a client's requests.
    fn serve_client(&mut self, key: Key) {
        let trusted = self.runtime.clients.is_trusted(key);
        if !trusted {
            self.charge_slices();
        }
        let served = self.try_serve(key);
        let (keys, messages) = &mut self.runtime.clients.uncharged;
        keys.push(key);
        if !trusted || *messages >= UNTIMED || keys.len() >= UNTIMED {
            self.charge_slices();
        }
        match served {
            Ok(more) => {
                if more {
                    self.runtime.clients.enqueue(key);
                }
            }
            Err(end) => self.end_client(key, end),
        }
        self.bury();
        // Before it hears of anything else: a client that asks what became of its buffers gets all of the answer.
        self.apply_cleared();
    }

    /// Charges for the slices since the clock was read last.
    pub(crate) fn charge_slices(&mut self) {
        if self.runtime.clients.uncharged.0.is_empty() {
            return;
        }
        let began = self.runtime.clock.last();
        let took = self.runtime.clock.read().saturating_sub(began);
        self.runtime.clients.charge(took);
    }

    /// Handles a slice of a client's requests; says whether there is more.
    fn try_serve(&mut self, key: Key) -> Result<bool, End> {
        let clients = &mut self.runtime.clients;
        let Some(connection) = clients.connections.get_mut(&key) else { return Ok(false) };
        let mut full = false;
        if connection.relay.next().map_err(End::from)?.is_none() {
            let read = connection.relay.receive(&mut clients.scratch).map_err(|_| End::HungUp)?;
            let Read::Got { bytes, files, highest } = read else {
                return match read {
                    Read::End => Err(End::HungUp),
                    Read::Lost => {
                        Err(End::Error(DisplayError::NoMemory, "no more files can be opened".into()))
                    }
                    _ => Ok(false),
                };
            };
            full = bytes == relay::MAX_MESSAGE;
            connection.uncounted += bytes;
            if files > 0 {
                if let Some(data) = ClientState::of(&connection.client) {
                    data.usage().files_received += files as u64;
                }
                let reserve = self.runtime.clients.limits.files_before_reserve();
                if highest.is_some_and(|number| number as u64 >= reserve) {
                    self.disconnect_hoarder(Some(key));
                }
            }
        }
        let Some(connection) = self.runtime.clients.connections.get_mut(&key) else { return Ok(false) };
        let handle = self.runtime.display.backend_handle();
        let id = connection.client.id();
        let data = ClientState::of(&connection.client);
        let stray = data.is_some_and(|data| data.usage().stray_files() > 0);
        let (mut answers, mut lets_go, mut taken) = (false, false, 0);
        let importing = data.is_some_and(ClientState::imports);
        let (mut creates, mut held, mut first) = (importing, false, true);
        let handed = connection.relay.hand_on(connection.slice, |header, message| {
            if header.is_sync() && creates {
                // Clients that make a roundtrip after `create` count on its answer. One that is handed over now has to be
                // dispatched before one knows whether there is anything to wait for.
                held = importing;
                return Ok(false);
            }
            if header.may_be_create() {
                let id = handle.object_for_protocol_id(id.clone(), WlSurface::interface(), header.object);
                // wl_surface.damage looks the same.
                creates |= id.is_err();
            }
            if header.may_be_nameless_bind(message) {
                let id = handle.object_for_protocol_id(id.clone(), WlRegistry::interface(), header.object);
                if id.is_ok() {
                    return Err(Malformed::NoName);
                }
                // A message before it may make the registry: it is looked at again when those have been dispatched.
                if !first {
                    return Ok(false);
                }
            }
            first = false;
            answers |= header.object == 1;
            lets_go |= header.may_be_destroy();
            // Offers are the library's own objects, which are not asked here what they do with a file.
            if stray && takes_file(header) {
                let offer =
                    handle.object_for_protocol_id(id.clone(), WlDataOffer::interface(), header.object);
                taken += u64::from(offer.is_ok());
            }
            Ok(true)
        });
        let handed = handed.map_err(|_| End::HungUp)?;
        connection.answers = answers;
        if let Some(data) = data.filter(|_| taken > 0) {
            (0..taken).for_each(|_| data.usage().took_file());
        }
        let messages = handed.map_err(End::from)?;
        if messages > 0 {
            self.dispatch(key);
        }
        self.check_holdings(key)?;
        let clients = &mut self.runtime.clients;
        clients.uncharged.1 += messages;
        let Some(connection) = clients.connections.get_mut(&key) else { return Ok(false) };
        if connection.answers && !clients.told.contains(&key) {
            clients.told.push(key);
        }
        if lets_go && !clients.let_go.contains(&key) {
            clients.let_go.push(key);
        }
        if held && data_imports(connection) {
            connection.held = true;
            // What it sends meanwhile waits in its socket.
            clients.update_interest(key);
            return Ok(false);
        }
        Ok(full || connection.relay.next().map_err(End::from)?.is_some())
    }

    /// Lets a client go on that waited for the buffers of its that were being imported.
    pub(crate) fn imports_done(&mut self, client: &ClientState) {
        let clients = &mut self.runtime.clients;
        let key = client.key;
        let Some(connection) = clients.connections.get_mut(&key).filter(|c| c.held) else { return };
        connection.held = false;
        clients.update_interest(key);
        clients.enqueue(key);
    }

    fn dispatch(&mut self, key: Key) {
        let Some(connection) = self.runtime.clients.connections.get(&key) else { return };
        let (id, display) = (connection.client.id(), self.runtime.clients.display.clone());
        let result = display.borrow_mut().backend().dispatch_single_client(self, id);
        let Err(err) = result else { return };
        tracing::trace!(%err, "dispatching a client");
        // The library gives up a client whose request names no object, or no request, without telling it why.
        if err.raw_os_error() == Some(rustix::io::Errno::PROTO.raw_os_error())
            && let Clients { connections, scratch, .. } = &mut self.runtime.clients
            && let Some(connection) = connections.get_mut(&key)
            && let Err(err) =
                connection.relay.say_error(DisplayError::InvalidMethod as u32, "invalid request", scratch)
        {
            tracing::trace!(%err, "client not reached");
        }
    }

    /// Checks what no request is asked about: stray files, and the number of objects.
    fn check_holdings(&mut self, key: Key) -> Result<(), End> {
        let Some(connection) = self.runtime.clients.connections.get_mut(&key) else { return Ok(()) };
        let Some(data) = ClientState::of(&connection.client) else { return Ok(()) };
        let stray = data.usage().stray_files();
        if stray > data.limits.files {
            let text = format!("{stray} files that no request takes");
            return Err(End::Error(DisplayError::Implementation, text));
        }
        if connection.uncounted >= BYTES_BETWEEN_COUNTS {
            connection.uncounted = 0;
            let mut objects: u64 = 0;
            let handle = self.runtime.display.backend_handle();
            if handle.with_all_objects_for(connection.client.id(), |_| objects += 1).is_ok()
                && objects > data.limits.objects
            {
                return Err(End::Error(DisplayError::NoMemory, format!("{objects} objects")));
            }
        }
        Ok(())
    }

    /// Ends a connection, with an error if there is one.
    fn end_client(&mut self, key: Key, end: End) {
        let Some(connection) = self.runtime.clients.connections.get(&key) else { return };
        match end {
            End::HungUp => {}
            End::Error(code, text) => {
                tracing::info!(pid = pid(&connection.client), reason = text, "client disconnected");
                post_display_error(&self.runtime.display, &connection.client, code, text);
            }
        }
        self.forget_client(key);
    }

    /// Lets the library forget a client, whether it has given it up itself or finds the socket closed.
    fn forget_client(&mut self, key: Key) {
        let Some(mut connection) = self.runtime.clients.connections.remove(&key) else { return };
        let clients = &mut self.runtime.clients;
        clients.watch.remove(connection.relay.client(), Source::Client(key));
        clients.watch.remove(connection.relay.library(), Source::Library(key));
        clients.queue.retain(|other| *other != key);
        clients.seen.retain(|other| *other != key);
        clients.held_back.0.retain(|other| *other != key);
        // The last words, among them the error.
        if let Err(err) = connection.relay.pump(&mut clients.scratch) {
            tracing::trace!(%err, "last words");
        }
        let (id, display) = (connection.client.id(), clients.display.clone());
        if let Err(err) = rustix::net::shutdown(connection.relay.library(), rustix::net::Shutdown::Both) {
            tracing::trace!(%err, "closing a client");
        }
        let result = display.borrow_mut().backend().dispatch_single_client(self, id);
        tracing::trace!(?result, "client forgotten");
    }

    /// Forgets the clients that the library has given up.
    fn bury(&mut self) {
        loop {
            let gone = std::mem::take(&mut *crate::lock(&self.runtime.clients.gone));
            if gone.is_empty() {
                return;
            }
            gone.into_iter().for_each(|key| self.forget_client(key));
        }
    }

    /// Sends away who holds the most files, when the reserve is touched: of the process with the most, the connection
    /// with the most; where no process has many, one that cannot be seen. `asking` is who has just sent one.
    fn disconnect_hoarder(&mut self, asking: Option<Key>) {
        let mut held: Vec<(Option<i32>, u64, bool, Key)> = Vec::new();
        let mut of_process: HashMap<Option<i32>, u64> = HashMap::new();
        for (key, connection) in &self.runtime.clients.connections {
            let Some(data) = ClientState::of(&connection.client) else { continue };
            let pending = self.dmabuf.global.pending_planes(&connection.client.id()) as u64;
            let files = data.usage().files(pending) + FILES_OF_CONNECTION;
            let process = pid(&connection.client);
            *of_process.entry(process).or_default() += files;
            held.push((process, files, asking == Some(*key), *key));
        }
        let worst = held.into_iter().max_by_key(|(process, files, asks, key)| {
            let all = of_process.get(process).copied().unwrap_or_default();
            let greed = if all > MODEST { all } else { 0 };
            (greed, !self.runtime.clients.is_visible(*key), all, *files, *asks, *key)
        });
        if let Some((_, files, _, key)) = worst {
            let text = format!("the compositor is short of files, and {files} are this client's");
            self.end_client(key, End::Error(DisplayError::NoMemory, text));
        }
    }

    /// Gives those who have more to say their turns.
    pub(crate) fn serve_queue(&mut self) {
        let mut had = [false; 2];
        while let Some(key) = self.runtime.clients.next(&mut had) {
            if let Some(connection) = self.runtime.clients.connections.get_mut(&key) {
                connection.queued = false;
            }
            self.serve_client(key);
            self.answer_client(key);
        }
    }
}

/// Whose it is.
pub(crate) fn key_of(surface: &WlSurface) -> Option<Key> {
    surface.client().as_ref().and_then(ClientState::of).map(|data| data.key)
}

fn data_imports(connection: &Connection) -> bool {
    ClientState::of(&connection.client).is_some_and(ClientState::imports)
}

/// Whether a message to an offer hands over a file: `wl_data_offer.receive`.
fn takes_file(header: Header) -> bool {
    const SERVER_MADE: u32 = 0xff00_0000;
    header.object >= SERVER_MADE
        && WlDataOffer::interface().requests.get(usize::from(header.opcode)).is_some_and(|request| {
            use smithay::reexports::wayland_server::backend::protocol::ArgumentType;
            request.signature.iter().any(|argument| matches!(argument, ArgumentType::Fd))
        })
}

/// In whose name a client's buffers are held.
pub(crate) fn owner(client: &Client) -> drm_prime::Owner {
    match pid(client) {
        Some(pid) => format!("client {pid}").into(),
        None => format!("{:?}", client.id()).into(),
    }
}

/// The process that connected, where the kernel says which. Not the library's idea of it: that is connected to the relay,
/// which is this process.
pub(crate) fn pid(client: &Client) -> Option<i32> {
    ClientState::of(client)?.credentials.map(|c| c.pid)
}

/// Ends a client that is over a quota for which its object has no error: wl_display.no_memory.
pub(crate) fn over_quota(
    display: &smithay::reexports::wayland_server::DisplayHandle,
    client: &Client,
    text: String,
) {
    tracing::info!(pid = pid(client), reason = text, "client over quota");
    post_display_error(display, client, DisplayError::NoMemory, text);
}

fn post_display_error(
    display: &smithay::reexports::wayland_server::DisplayHandle,
    client: &Client,
    code: DisplayError,
    text: String,
) {
    let handle = display.backend_handle();
    let mut wl_display: Option<ObjectId> = None;
    let found = handle.with_all_objects_for(client.id(), |id| {
        if id.protocol_id() == 1 {
            wl_display = Some(id);
        }
    });
    if let (Ok(()), Some(id)) = (found, wl_display) {
        handle.post_error(id, code as u32, CString::new(text).unwrap_or_default());
    }
}

impl From<Malformed> for End {
    fn from(malformed: Malformed) -> Self {
        Self::Error(DisplayError::InvalidMethod, malformed.to_string())
    }
}
