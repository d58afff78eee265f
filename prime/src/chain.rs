//! An error and its sources as one text, for people. What each says is its own.

use std::error::Error;
use std::fmt;

/// Shows an error with all its sources, from the outermost inwards, with a colon between each two.
///
/// ```
/// use drm_prime::{DumbError, ErrorChain};
///
/// let source = std::io::ErrorKind::OutOfMemory.into();
/// let error = DumbError::System { action: "map a buffer", device: 0xe200, source };
/// assert_eq!(error.to_string(), "cannot map a buffer on device 0xe200");
/// assert_eq!(ErrorChain(&error).to_string(), "cannot map a buffer on device 0xe200: out of memory");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(err) = source {
            write!(f, ": {err}")?;
            source = err.source();
        }
        Ok(())
    }
}
