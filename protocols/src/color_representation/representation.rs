//! What a client may say of a surface's colours, and the rules by which a commit is judged.
//!
//! Owns: the values, what a compositor supports of them, the check of contents. Does not own: objects, sending errors.

use wayland_protocols::wp::color_representation::v1::server::wp_color_representation_surface_v1 as wire;
use wayland_server::WEnum;

pub use wire::{AlphaMode, ChromaLocation, Coefficients, Range};

/// The metadata of a surface. Nothing is set by default, and then the compositor decides what it takes colours for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Representation {
    /// How alpha affects colours; premultiplied_electrical if it is not set.
    pub alpha_mode: Option<AlphaMode>,
    /// Matrix and range, which come together.
    pub coefficients: Option<(Coefficients, Range)>,
    /// Where chroma samples of 4:2:0 lie.
    pub chroma_location: Option<ChromaLocation>,
}

/// What a compositor honours: a client may set nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supported {
    /// Alpha modes.
    pub alpha_modes: Vec<AlphaMode>,
    /// Combinations of matrix and range.
    pub coefficients: Vec<(Coefficients, Range)>,
}

impl Supported {
    /// The alpha mode of a request, if it is supported.
    pub(crate) fn alpha_mode(&self, mode: WEnum<AlphaMode>) -> Option<AlphaMode> {
        mode.into_result().ok().filter(|mode| self.alpha_modes.contains(mode))
    }

    /// The combination of a request, if it is supported.
    pub(crate) fn coefficients(
        &self,
        coefficients: WEnum<Coefficients>,
        range: WEnum<Range>,
    ) -> Option<(Coefficients, Range)> {
        let pair = (coefficients.into_result().ok()?, range.into_result().ok()?);
        Some(pair).filter(|pair| self.coefficients.contains(pair))
    }
}

/// What the pixels of a format are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Red, green and blue, or one of them.
    Rgb,
    /// Luma and chroma.
    Ycbcr {
        /// Chroma is halved in both directions (4:2:0).
        is_420: bool,
    },
}

/// What a surface shows from a commit on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Contents {
    /// Nothing, or pixels of a format that nobody knows: there is nothing to be compared.
    #[default]
    None,
    /// Pixels.
    Pixels(Model),
}

/// A fault of the client in what it set for a commit: the error pixel_format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitFault {
    /// The matrix is not one for the format's pixels.
    #[error("{coefficients:?} is no matrix for pixels that are {model:?}")]
    Coefficients {
        /// The matrix that was set.
        coefficients: Coefficients,
        /// What the pixels are.
        model: Model,
    },
    /// The format has no chroma samples that lie between pixels in both directions.
    #[error("a chroma location for pixels that are {model:?}")]
    ChromaLocation {
        /// What the pixels are.
        model: Model,
    },
}

impl Representation {
    /// Compares what was set with what is shown.
    pub(crate) fn check(&self, contents: Contents) -> Result<(), CommitFault> {
        let Contents::Pixels(model) = contents else { return Ok(()) };
        if let Some((coefficients, _)) = self.coefficients
            && (coefficients == Coefficients::Identity) != (model == Model::Rgb)
        {
            return Err(CommitFault::Coefficients { coefficients, model });
        }
        // H.273 defines the location for 4:2:0 alone.
        if self.chroma_location.is_some() && model != (Model::Ycbcr { is_420: true }) {
            return Err(CommitFault::ChromaLocation { model });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: [Model; 3] = [Model::Rgb, Model::Ycbcr { is_420: true }, Model::Ycbcr { is_420: false }];

    #[test]
    fn a_matrix_is_for_luma_and_chroma_and_identity_for_colours() {
        for coefficients in
            [Coefficients::Identity, Coefficients::Bt601, Coefficients::Bt709, Coefficients::Bt2020]
        {
            let set =
                Representation { coefficients: Some((coefficients, Range::Full)), ..Default::default() };
            assert_eq!(set.check(Contents::None), Ok(()));
            for model in MODELS {
                let fits = (coefficients == Coefficients::Identity) == (model == Model::Rgb);
                let fault = CommitFault::Coefficients { coefficients, model };
                assert_eq!(set.check(Contents::Pixels(model)), if fits { Ok(()) } else { Err(fault) });
            }
        }
    }

    #[test]
    fn a_chroma_location_is_for_420() {
        let set = Representation { chroma_location: Some(ChromaLocation::Type0), ..Default::default() };
        assert_eq!(set.check(Contents::None), Ok(()));
        for model in MODELS {
            let fits = model == Model::Ycbcr { is_420: true };
            let fault = CommitFault::ChromaLocation { model };
            assert_eq!(set.check(Contents::Pixels(model)), if fits { Ok(()) } else { Err(fault) });
        }
    }

    #[test]
    fn nothing_set_goes_with_everything() {
        for model in MODELS {
            assert_eq!(Representation::default().check(Contents::Pixels(model)), Ok(()));
        }
    }

    #[test]
    fn what_is_not_supported_is_no_value() {
        let supported = Supported {
            alpha_modes: vec![AlphaMode::PremultipliedElectrical],
            coefficients: vec![(Coefficients::Bt709, Range::Limited)],
        };
        let value = |coefficients: u32, range: u32| supported.coefficients(coefficients.into(), range.into());
        assert_eq!(value(2, 2), Some((Coefficients::Bt709, Range::Limited)));
        for (coefficients, range) in
            [(2, 1), (4, 2), (0, 0), (2, 0), (0, 2), (9, 2), (2, 3), (u32::MAX, u32::MAX)]
        {
            assert_eq!(value(coefficients, range), None, "{coefficients} {range}");
        }
        assert_eq!(supported.alpha_mode(0.into()), Some(AlphaMode::PremultipliedElectrical));
        for mode in [1, 2, 3, u32::MAX] {
            assert_eq!(supported.alpha_mode(mode.into()), None, "{mode}");
        }
    }
}
