//! What errnos are called.
//!
//! It owns the names. What an errno of a call means is told where that call is.

use rustix::io::Errno;

/// The errnos that DRM, dma-bufs and files give, by their names in errno.h.
const NAMES: &[(Errno, &str)] = &[
    (Errno::ACCESS, "EACCES"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::BADF, "EBADF"),
    (Errno::BADFD, "EBADFD"),
    (Errno::BUSY, "EBUSY"),
    (Errno::CANCELED, "ECANCELED"),
    (Errno::DEADLK, "EDEADLK"),
    (Errno::EXIST, "EEXIST"),
    (Errno::FAULT, "EFAULT"),
    (Errno::FBIG, "EFBIG"),
    (Errno::INTR, "EINTR"),
    (Errno::INVAL, "EINVAL"),
    (Errno::IO, "EIO"),
    (Errno::MFILE, "EMFILE"),
    (Errno::NFILE, "ENFILE"),
    (Errno::NODEV, "ENODEV"),
    (Errno::NOENT, "ENOENT"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::NOSYS, "ENOSYS"),
    (Errno::NOTTY, "ENOTTY"),
    (Errno::NXIO, "ENXIO"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::OVERFLOW, "EOVERFLOW"),
    (Errno::PERM, "EPERM"),
    (Errno::RANGE, "ERANGE"),
    (Errno::TIME, "ETIME"),
    (Errno::TIMEDOUT, "ETIMEDOUT"),
    (Errno::TOOBIG, "E2BIG"),
];

/// An errno as C writes it; `errno 95` for one that these calls do not give.
///
/// ```
/// use drm_prime::errno_name;
/// use rustix::io::Errno;
///
/// assert_eq!(errno_name(Errno::INVAL), "EINVAL");
/// assert_eq!(errno_name(Errno::from_raw_os_error(4095)), "errno 4095");
/// ```
#[must_use]
pub fn errno_name(errno: Errno) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == errno);
    known.map_or_else(|| format!("errno {}", errno.raw_os_error()), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_errno_has_one_name() {
        let numbers: HashSet<_> = NAMES.iter().map(|(errno, _)| errno.raw_os_error()).collect();
        let names: HashSet<_> = NAMES.iter().map(|(_, name)| name).collect();
        assert_eq!((numbers.len(), names.len()), (NAMES.len(), NAMES.len()));
    }
}
