//! [`FramebufferCache`]: the framebuffer of every buffer that has been tried, or the reason why it has none. It counts
//! references and closes nothing itself; what is on screen is held by [`crate::flip`].

use std::{collections::HashMap, hash::Hash, sync::Arc};

use crate::{
    Fault,
    dmabuf::Dmabuf,
    flip::SharedFramebuffer,
    framebuffer::{Framebuffer, FramebufferError},
    handles::HandleTable,
};

/// A framebuffer, or why there is none.
pub type Outcome = Result<SharedFramebuffer, Arc<FramebufferError>>;

/// The framebuffers of one device's buffers, each tried once.
///
/// Keyed by whatever identifies a buffer to the caller *while the buffer exists* (a `wl_buffer`, not a descriptor), and by whether the
/// opaque substitute is wanted. [`get`](Self::get) of a known buffer makes no system call and allocates nothing. A
/// refusal is remembered, too, whatever it rests on (the description, the driver, a known quirk of it); failures of the system
/// are not, and the buffer is tried again.
///
/// What is lent can be shown without fear of [`remove`](Self::remove): its number is to be had from
/// [`PlaneFramebuffers`](crate::PlaneFramebuffers) only, which keeps it open.
///
/// ```
/// use std::{num::NonZeroU32, os::fd::AsFd, sync::Arc};
/// use drm_fourcc::{DrmFourcc, DrmModifier};
/// use drm_prime::model::{Driver, Machine, Node, Profile};
/// use drm_prime::{BufferPlane, Dmabuf, FramebufferCache, HandleTable, PlaneFramebuffers};
/// # fn atomic_commit(_fb_id: u32) -> std::io::Result<()> { Ok(()) }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let machine = Machine::new(Profile::MODERN);
/// let memory = machine.udmabuf(64 * 64 * 4)?.into_owned()?;
/// let plane = BufferPlane { fd: memory.as_fd(), offset: 0, stride: 256 };
/// let buffer = Dmabuf::new(64, 64, DrmFourcc::Argb8888, DrmModifier::Linear, &[plane])?;
///
/// let table = HandleTable::new(Arc::new(machine.add_device(Driver::vkms()).open(Node::Primary)?));
/// let mut cache = FramebufferCache::new(table);
/// let mut planes = PlaneFramebuffers::new();
/// let wl_buffer = 7;
/// let framebuffer = cache.get_or_import(wl_buffer, &buffer, true)?;
/// planes.commit(|staging| atomic_commit(staging.show(NonZeroU32::MIN, &framebuffer).get()))?;
/// drop(framebuffer);
/// cache.remove(&wl_buffer); // the client destroyed it: it stays open, and goes on screen
/// assert_eq!(machine.census().framebuffers, 1);
/// planes.flipped();
/// planes.commit(|staging| { staging.turn_off(NonZeroU32::MIN); atomic_commit(0) })?;
/// planes.flipped(); // now it has left the screen
/// assert_eq!(machine.census().framebuffers, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FramebufferCache<K> {
    table: HandleTable,
    /// Plain and opaque.
    outcomes: HashMap<K, [Option<Outcome>; 2]>,
}

impl<K: Hash + Eq> FramebufferCache<K> {
    /// An empty cache.
    #[must_use]
    pub fn new(table: HandleTable) -> Self {
        Self { table, outcomes: HashMap::new() }
    }

    /// The table whose device the framebuffers are on.
    #[must_use]
    pub fn table(&self) -> &HandleTable {
        &self.table
    }

    /// The framebuffer of a buffer, made now if need be.
    ///
    /// # Errors
    /// What [`Framebuffer::new`] said, now or the first time.
    pub fn get_or_import(&mut self, key: K, buffer: &Dmabuf<'_>, opaque: bool) -> Outcome {
        self.get_or_make(key, opaque, |table| Framebuffer::new(table, buffer, opaque))
    }

    /// The framebuffer of a buffer, made by `make` if need be: for descriptions that are not to be put together before they
    /// are needed, or may be wrong, and for owners of their own ([`HandleTable::owned_by`]).
    ///
    /// # Errors
    /// What `make` said, now or the first time.
    pub fn get_or_make(
        &mut self,
        key: K,
        opaque: bool,
        make: impl FnOnce(&HandleTable) -> Result<Framebuffer, FramebufferError>,
    ) -> Outcome {
        if let Some(known) = self.get(&key, opaque) {
            return known;
        }
        let outcome = make(&self.table).map(SharedFramebuffer::new).map_err(Arc::new);
        match &outcome {
            Err(error) if error.fault() == Fault::System => {}
            outcome => {
                if let Err(error) = outcome {
                    tracing::debug!(err = %error, opaque, "buffer refused");
                }
                self.outcomes.entry(key).or_default()[usize::from(opaque)] = Some(outcome.clone());
            }
        }
        outcome
    }

    /// The remembered outcome, without trying: no system call, no allocation.
    #[must_use]
    pub fn get(&self, key: &K, opaque: bool) -> Option<Outcome> {
        self.outcomes.get(key)?[usize::from(opaque)].clone().filter(is_valid)
    }

    /// Forgets a buffer. A framebuffer that a plane shows, or is about to show, stays open until it has left the screen.
    pub fn remove(&mut self, key: &K) {
        self.outcomes.remove(key);
    }

    /// Number of framebuffers remembered, refusals not counted.
    #[must_use]
    pub fn framebuffers(&self) -> usize {
        self.outcomes.values().flatten().filter(|outcome| matches!(outcome, Some(Ok(_)))).count()
    }

    /// Forgets all buffers, e.g. when the device's capabilities changed. As [`remove`](Self::remove) for what is shown.
    pub fn clear(&mut self) {
        self.outcomes.clear();
    }

    /// Number of buffers remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether no buffer is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }
}

/// A framebuffer that was removed while it was shared is as good as none.
fn is_valid(outcome: &Outcome) -> bool {
    outcome.as_ref().map_or(true, SharedFramebuffer::is_open)
}

#[cfg(test)]
mod tests;
