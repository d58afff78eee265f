//! Which renderer composites: the one that was asked for, or what suits the machine.
//!
//! It owns the order in which devices are tried and what is said about it. GLES is chosen by itself only where a GPU
//! draws: on the CPU Pixman does the same faster.

use std::path::Path;

use super::gles::{Gles, StartError, Way};
use super::{Painter, RenderError};
use crate::backend::Backend;

/// A renderer as asked for on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Renderer {
    /// GLES where there is a GPU, Pixman otherwise.
    #[default]
    Auto,
    /// OpenGL ES, on the CPU if there is no GPU.
    Gles,
    /// Pixman, on the CPU.
    Pixman,
}

/// Why there is no renderer.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// Pixman cannot be initialised.
    #[error(transparent)]
    Pixman(#[from] RenderError),
    /// GLES was asked for and cannot be had.
    #[error("no OpenGL ES, which --renderer gles asks for; --renderer pixman needs none")]
    Gles(#[source] StartError),
    /// The two contradict each other.
    #[error("--render-node is for OpenGL ES, and --renderer pixman asks for none: leave one of them out")]
    NodeForPixman,
}

/// Makes the renderer for a backend. `node` is the DRM node to draw on, if one was named.
///
/// # Errors
/// When what was asked for cannot be had; without a wish there is always Pixman.
pub fn choose(asked: Renderer, node: Option<&Path>, backend: &mut Backend) -> Result<Painter, ChoiceError> {
    let gles = match asked {
        Renderer::Pixman if node.is_some() => return Err(ChoiceError::NodeForPixman),
        Renderer::Pixman => None,
        Renderer::Auto => on_gpu(node, backend),
        Renderer::Gles => Some(on_anything(node, backend).map_err(ChoiceError::Gles)?),
    };
    let Some(mut gles) = gles else {
        tracing::info!("pixman composites");
        return Ok(Painter::pixman()?);
    };
    backend.share_targets(|target| gles.try_shared(target));
    let (node, driver) = (gles.node().map(Path::display), gles.driver());
    tracing::info!(
        node = node.map(tracing::field::display),
        driver,
        software = gles.is_software(),
        way = ?gles.way(),
        "gles composites"
    );
    if gles.way() == Way::ReadBack && backend.kms().is_some() {
        tracing::warn!("each composited frame is copied from the gpu's memory to the display's");
    }
    Ok(Painter::Gles(Box::new(gles)))
}

/// A renderer on a GPU, if there is one.
fn on_gpu(node: Option<&Path>, backend: &mut Backend) -> Option<Gles> {
    let nodes = match node {
        Some(node) => vec![node.to_owned()],
        None => Gles::gpus(backend.kms().and_then(|kms| kms.device_ids().next())),
    };
    for node in nodes {
        match Gles::open(Some(&node)) {
            Ok(gles) if !gles.is_software() => return Some(gles),
            Ok(gles) => {
                tracing::info!(node = %node.display(), driver = gles.driver(), "no gpu: software renderer");
            }
            Err(err) => {
                let err = &err as &dyn std::error::Error;
                tracing::info!(node = %node.display(), err, "no gpu");
            }
        }
    }
    None
}

/// A renderer on a GPU, else on the CPU: with the display's memory, which takes a second open of its card, or without.
fn on_anything(node: Option<&Path>, backend: &mut Backend) -> Result<Gles, StartError> {
    if let Some(node) = node {
        return Gles::open(Some(node));
    }
    if let Some(gles) = on_gpu(None, backend) {
        return Ok(gles);
    }
    let card = backend.kms().and_then(|kms| Some(kms.node()?.to_owned()));
    if let Some(card) = card {
        match Gles::open(Some(&card)) {
            Ok(gles) => return Ok(gles),
            Err(err) => {
                let err = &err as &dyn std::error::Error;
                tracing::info!(node = %card.display(), err, "no gles on the display device");
            }
        }
    }
    Gles::open(None)
}
