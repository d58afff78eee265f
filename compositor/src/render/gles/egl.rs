//! EGL for the GLES renderer: on a DRM node through gbm, or without any device.
//!
//! It owns the node's file, the gbm device on it and the loading of both libraries: neither libEGL nor libgbm is linked,
//! so that primeway starts without them. gbm is used for nothing but EGL's platform: what is drawn into comes from the
//! backend, as a dma-buf.
//!
//! The file is opened here and nowhere else. EGL and gbm close GEM handles on it as they like, so it must never be the
//! PRIME file of [`crate::backend::buffers`], nor a duplicate of it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use libloading::Library;
use rustix::fs::{Mode, OFlags};
use smithay::backend::egl::native::{EGLNativeDisplay, EGLPlatform};
use smithay::backend::egl::{EGLContext, EGLDevice, EGLDisplay, ffi};
use smithay::backend::renderer::gles::{GlesRenderer, ffi as gl};
use smithay::egl_platform;

use super::StartError;

const EGL: &str = "libEGL.so.1";
const GBM: &str = "libgbm.so.1";

/// What the GL driver says of itself.
#[derive(Debug)]
pub(super) struct Driver {
    /// GL_RENDERER.
    pub name: String,
    /// It draws on the CPU.
    pub software: bool,
    /// The largest width and height of a texture.
    pub max_texture: i32,
    /// Major version of OpenGL ES.
    pub version: u32,
}

/// A DRM file of EGL's own with the gbm device on it.
struct GbmDevice {
    device: NonNull<c_void>,
    destroy: unsafe extern "C" fn(*mut c_void),
    node: PathBuf,
    // Dropped after the device: it refers to both.
    _file: NodeFile,
    _library: Library,
}

// SAFETY: gbm devices are bound to no thread (gbm.h says nothing of threads, Mesa keeps no thread-local state of
// them); it is only ever used through the EGL display that owns it.
unsafe impl Send for GbmDevice {}

impl Drop for GbmDevice {
    fn drop(&mut self) {
        // SAFETY: made by gbm_create_device of the library that is still loaded, and destroyed once.
        unsafe { (self.destroy)(self.device.as_ptr()) };
    }
}

impl EGLNativeDisplay for GbmDevice {
    fn supported_platforms(&self) -> Vec<EGLPlatform<'_>> {
        vec![
            egl_platform!(PLATFORM_GBM_KHR, self.device.as_ptr(), &["EGL_KHR_platform_gbm"]),
            egl_platform!(PLATFORM_GBM_MESA, self.device.as_ptr(), &["EGL_MESA_platform_gbm"]),
        ]
    }

    fn identifier(&self) -> Option<String> {
        Some(self.node.display().to_string())
    }
}

/// EGL without a device: Mesa draws on the CPU, into memory of its own.
struct Surfaceless;

impl EGLNativeDisplay for Surfaceless {
    fn supported_platforms(&self) -> Vec<EGLPlatform<'_>> {
        let display = std::ptr::null_mut::<c_void>();
        vec![egl_platform!(PLATFORM_SURFACELESS_MESA, display, &["EGL_MESA_platform_surfaceless"])]
    }

    fn surface_type(&self) -> ffi::EGLint {
        ffi::egl::PBUFFER_BIT as ffi::EGLint
    }
}

/// A DRM node, opened for EGL alone.
#[derive(Debug)]
pub(super) struct NodeFile(OwnedFd);

impl AsFd for NodeFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl drm::Device for NodeFile {}

impl NodeFile {
    /// Opens a node; a card node is never left master.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(node: &Path) -> Result<Self, StartError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let fd = rustix::fs::open(node, flags, Mode::empty())
            .map_err(|errno| StartError::Open { node: node.to_owned(), source: errno.into() })?;
        let file = Self(fd);
        // The first one to open a card without a master becomes it. Anyone else gets EINVAL or EACCES here.
        let _ = drm::Device::release_master_lock(&file);
        Ok(file)
    }

    /// The file itself.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }
}

fn load(name: &'static str) -> Result<Library, StartError> {
    // SAFETY: system libraries whose initialisers do nothing that Rust would have to know of.
    unsafe { Library::new(name) }.map_err(|source| StartError::Library { name, source })
}

fn gbm(node: &Path) -> Result<GbmDevice, StartError> {
    let library = load(GBM)?;
    let missing = |source| StartError::Library { name: GBM, source };
    type Create = unsafe extern "C" fn(std::ffi::c_int) -> *mut c_void;
    type Destroy = unsafe extern "C" fn(*mut c_void);
    // SAFETY: the types are those of gbm.h. The function pointers are used only while `library` lives.
    let (create, destroy) = unsafe {
        let create = library.get::<Create>(b"gbm_create_device\0").map_err(missing)?;
        let destroy = library.get::<Destroy>(b"gbm_device_destroy\0").map_err(missing)?;
        (*create, *destroy)
    };
    let file = NodeFile::open(node)?;
    // SAFETY: the descriptor is open, and stays so for as long as the device (gbm.h): both are in one value.
    let device = NonNull::new(unsafe { create(file.as_fd().as_raw_fd()) });
    let device = device.ok_or_else(|| StartError::Gbm { node: node.to_owned() })?;
    Ok(GbmDevice { device, destroy, node: node.to_owned(), _file: file, _library: library })
}

/// EGL's display without a device, of which a process has one. It is kept: smithay 0.7.0 panics if the last owner drops it
/// while another thread, which EGL gives the same one, asks for it.
fn surfaceless() -> Result<EGLDisplay, StartError> {
    static ONLY: Mutex<Option<EGLDisplay>> = Mutex::new(None);
    let mut only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(display) = &*only {
        return Ok(display.clone());
    }
    // SAFETY: nothing else in this process makes EGL displays.
    let display = unsafe { EGLDisplay::new(Surfaceless) }?;
    Ok(only.insert(display).clone())
}

/// Makes a renderer on `node`, or on no device.
///
/// # Errors
/// When a library is missing or the driver refuses.
pub(super) fn renderer(node: Option<&Path>) -> Result<(GlesRenderer, Driver), StartError> {
    // smithay panics without it.
    drop(load(EGL)?);
    let display = match node {
        // SAFETY: nothing else in this process makes EGL displays.
        Some(node) => unsafe { EGLDisplay::new(gbm(node)?) }?,
        None => surfaceless()?,
    };
    let cpu_device = EGLDevice::device_for_display(&display).is_ok_and(|device| device.is_software());
    let context = EGLContext::new(&display)?;
    // SAFETY: the context was made just now and is current nowhere.
    let mut renderer = unsafe { GlesRenderer::new(context) }?;
    let driver = renderer.with_context(|gl| driver(gl, cpu_device))?;
    Ok((renderer, driver))
}

fn driver(gl: &gl::Gles2, cpu_device: bool) -> Driver {
    let text = |name| {
        // SAFETY: the context is current; GetString gives a static string or null.
        let text = unsafe { gl.GetString(name) };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: not null, and nul-terminated (OpenGL ES 3.2, 20.2).
        unsafe { std::ffi::CStr::from_ptr(text.cast()) }.to_string_lossy().into_owned()
    };
    let mut max_texture = 0;
    // SAFETY: MAX_TEXTURE_SIZE is one integer.
    unsafe { gl.GetIntegerv(gl::MAX_TEXTURE_SIZE, &mut max_texture) };
    let name = text(gl::RENDERER);
    let version = text(gl::VERSION);
    let major = version.strip_prefix("OpenGL ES ").and_then(|v| v.split('.').next()?.parse().ok());
    Driver { software: cpu_device || is_software(&name), name, max_texture, version: major.unwrap_or(2) }
}

/// Tells by GL_RENDERER whether a driver draws on the CPU: Mesa's llvmpipe, softpipe and swr, SwiftShader, and what
/// virtual machines without a GPU give.
fn is_software(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["llvmpipe", "softpipe", "swr", "swiftshader", "software", "lavapipe"].iter().any(|s| name.contains(s))
}

/// The two ways in which a texture is sampled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Samplers {
    /// For pixels shown 1:1: exact, also for the subsampled planes of YUV.
    pub nearest: u32,
    /// For scaled ones, the edges repeated outwards.
    pub linear: u32,
}

impl Samplers {
    /// Makes them; with OpenGL ES 2, which has none, the textures' own parameters stay in charge.
    pub(super) fn new(renderer: &mut GlesRenderer, driver: &Driver) -> Self {
        if driver.version < 3 {
            return Self::default();
        }
        let make = |gl: &gl::Gles2, filter: u32| {
            let mut sampler = 0;
            // SAFETY: the context is current and has sampler objects (ES 3.0); the parameters are of type integer.
            unsafe {
                gl.GenSamplers(1, &mut sampler);
                for (name, value) in [
                    (gl::TEXTURE_MIN_FILTER, filter),
                    (gl::TEXTURE_MAG_FILTER, filter),
                    (gl::TEXTURE_WRAP_S, gl::CLAMP_TO_EDGE),
                    (gl::TEXTURE_WRAP_T, gl::CLAMP_TO_EDGE),
                ] {
                    gl.SamplerParameteri(sampler, name, value as i32);
                }
            }
            sampler
        };
        let made =
            renderer.with_context(|gl| Self { nearest: make(gl, gl::NEAREST), linear: make(gl, gl::LINEAR) });
        made.unwrap_or_default()
    }
}

/// Makes `sampler` (0: none) the one that the first texture unit uses.
pub(in crate::render) fn bind_sampler(gl: &gl::Gles2, sampler: u32) {
    // SAFETY: the context is current while a frame is drawn; a sampler other than 0 was made in it by `Samplers`.
    unsafe { gl.BindSampler(0, sampler) };
}

/// Clears GL's errors. Returns whether there were any.
pub(super) fn take_errors(gl: &gl::Gles2) -> bool {
    let mut any = false;
    // One flag for each part of a distributed GL at most (ES 3.2, 2.3.1): a lost context must not hold us here.
    for _ in 0..16 {
        // SAFETY: the context is current.
        if unsafe { gl.GetError() } == gl::NO_ERROR {
            break;
        }
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_is_known_by_name() {
        for name in ["llvmpipe (LLVM 15.0.6, 256 bits)", "softpipe", "Google SwiftShader", "Mesa SWR"] {
            assert!(is_software(name), "{name}");
        }
        for name in
            ["AMD Radeon RX 6600 (radeonsi, navi23)", "Mesa Intel(R) UHD Graphics 620", "virgl", "V3D 4.2"]
        {
            assert!(!is_software(name), "{name}");
        }
    }

    #[test]
    fn a_missing_node_says_which() {
        let err = NodeFile::open(Path::new("/dev/dri/no-such-node")).unwrap_err();
        assert!(err.to_string().contains("/dev/dri/no-such-node"), "{err}");
    }
}
