//! What clients are told: when it leaves the library, and passing it on.
//!
//! Owns: who hears what is new at once, and who with the call that is due soon. Does not own: the bytes on their way
//! ([`super::relay`]), what is said (`handlers`, [`crate::output`]).

use std::time::Duration;

use super::{End, Key, pid};
use crate::state::State;

/// So long after it was due a call has certainly gone out.
const CALLED: Duration = Duration::from_millis(1);

impl State {
    /// Passes on at once what the library has to say to a client: its socket pair does not hold many answers.
    pub(super) fn answer_client(&mut self, key: Key) {
        let clients = &mut self.runtime.clients;
        clients.held_back.0.retain(|held| *held != key);
        let Some(connection) = clients.connections.get(&key) else { return };
        let id = connection.client.id();
        if let Err(err) = self.runtime.display.backend_handle().flush(Some(id)) {
            tracing::debug!(%err, "flushing a client");
        }
        self.pump_client(key);
    }

    /// Passes on what the library has to say to a client, if that can still be done in this turn.
    pub(crate) fn pump_client_unless_late(&mut self, key: Key) {
        // It will be told of again.
        if !self.runtime.clients.late() {
            self.pump_client(key);
        }
    }

    /// Passes on what the library has to say to a client.
    pub(crate) fn pump_client(&mut self, key: Key) {
        let clients = &mut self.runtime.clients;
        let Some(connection) = clients.connections.get_mut(&key) else { return };
        match connection.relay.pump(&mut clients.scratch) {
            Ok(()) => self.check_outgoing(key),
            Err(err) => {
                tracing::trace!(%err, "client not reached");
                self.end_client(key, End::HungUp);
            }
        }
    }

    /// Sends what waits for a client.
    pub(super) fn client_writable(&mut self, key: Key) {
        let Some(connection) = self.runtime.clients.connections.get_mut(&key) else { return };
        match connection.relay.send() {
            Ok(()) if connection.relay.unread().0 > 0 => {}
            Ok(()) => {
                connection.backlog = false;
                self.runtime.clients.update_interest(key);
            }
            Err(_) => {
                self.end_client(key, End::HungUp);
                self.bury();
            }
        }
    }

    /// Watches for room when something is left to send, and sends away who lets too much wait.
    fn check_outgoing(&mut self, key: Key) {
        let clients = &mut self.runtime.clients;
        let Some(connection) = clients.connections.get_mut(&key) else { return };
        let (bytes, files) = connection.relay.unread();
        let too_much = bytes as u64 > clients.limits.outgoing || files as u64 > clients.limits.files;
        if too_much {
            tracing::info!(
                pid = pid(&connection.client),
                bytes,
                files,
                "client disconnected: it does not read"
            );
            self.end_client(key, End::HungUp);
        } else if bytes > 0 && !std::mem::replace(&mut connection.backlog, true) {
            clients.update_interest(key);
        }
    }

    /// Those who wait for something that has just happened hear of it.
    pub(crate) fn tell_waiting(&mut self) {
        if self.runtime.clients.told.is_empty() {
            return;
        }
        while let Some(key) = self.runtime.clients.told.pop() {
            self.answer_client(key);
        }
        // Not at the expense of who is served next.
        self.runtime.clock.read();
    }

    /// When everybody is to hear what has been held back.
    pub(crate) fn held_back_until(&self) -> Option<Duration> {
        self.runtime.clients.held_back.1
    }

    /// Everybody hears what is new, or, unless it is `urgent`, with the call that is due soon anyway: that an object is gone
    /// wakes no client.
    pub(crate) fn tell_clients(&mut self, urgent: bool) {
        self.tell_waiting();
        let clients = &mut self.runtime.clients;
        let overdue = clients.held_back.1.is_some_and(|until| until <= self.runtime.clock.last());
        if urgent || overdue {
            clients.held_back.0.clear();
        } else {
            for key in clients.let_go.drain(..) {
                let call = self.outputs.iter().find_map(|output| output.state.calls_client(key));
                if let Some(call) = call
                    && !clients.held_back.0.contains(&key)
                {
                    clients.held_back.0.push(key);
                    let until = call + CALLED;
                    clients.held_back.1 = Some(clients.held_back.1.map_or(until, |first| first.min(until)));
                }
            }
        }
        clients.let_go.clear();
        let mut backend = self.runtime.display.backend_handle();
        let mut flush = |client| {
            if let Err(err) = backend.flush(client) {
                tracing::debug!(%err, "flushing clients");
            }
        };
        if clients.held_back.0.is_empty() {
            clients.held_back.1 = None;
            flush(None);
        } else {
            let others = clients.connections.iter().filter(|(key, _)| !clients.held_back.0.contains(key));
            others.for_each(|(_, other)| flush(Some(other.client.id())));
        }
        self.bury();
        let clients = &mut self.runtime.clients;
        clients.spent = Duration::ZERO;
    }
}
