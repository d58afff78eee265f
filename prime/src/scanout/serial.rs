//! How formats and contents are written down (feature `serde`).
//!
//! Formats as `drm_fourcc.h` spells them, modifiers as numbers, and refusals, which hold errors of the system, by their text.

use std::collections::HashSet;
use std::sync::Arc;

use drm_fourcc::{DrmFourcc, DrmModifier};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::layer::Scannable;
use super::refusal::Refusal;

fn read(name: &str) -> Result<DrmFourcc, String> {
    let letters = <[u8; 4]>::try_from(name.as_bytes()).ok();
    let code = letters.and_then(|letters| DrmFourcc::try_from(u32::from_le_bytes(letters)).ok());
    code.ok_or_else(|| format!("{name:?} is no format"))
}

fn write(format: DrmFourcc) -> String {
    crate::format::name(format as u32)
}

pub mod format {
    use super::*;

    pub fn serialize<S: Serializer>(format: &DrmFourcc, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&write(*format))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DrmFourcc, D::Error> {
        read(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

pub mod some_format {
    use super::*;

    #[allow(clippy::ref_option, reason = "serde's")]
    pub fn serialize<S: Serializer>(format: &Option<DrmFourcc>, out: S) -> Result<S::Ok, S::Error> {
        format.map(write).serialize(out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DrmFourcc>, D::Error> {
        let name = Option::<String>::deserialize(from)?;
        name.map(|name| read(&name)).transpose().map_err(D::Error::custom)
    }
}

pub mod modifier {
    use super::*;

    pub fn serialize<S: Serializer>(modifier: &DrmModifier, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(u64::from(*modifier))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DrmModifier, D::Error> {
        u64::deserialize(from).map(DrmModifier::from)
    }
}

pub mod formats {
    use super::*;

    type Formats = Arc<HashSet<(DrmFourcc, DrmModifier)>>;

    pub fn serialize<S: Serializer>(formats: &Formats, out: S) -> Result<S::Ok, S::Error> {
        let pairs = formats.iter().map(|(format, modifier)| (write(*format), u64::from(*modifier)));
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort_unstable();
        pairs.serialize(out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Formats, D::Error> {
        let pairs = Vec::<(String, u64)>::deserialize(from)?.into_iter();
        let pairs = pairs.map(|(name, modifier)| Ok((read(&name)?, DrmModifier::from(modifier))));
        pairs.collect::<Result<HashSet<_>, String>>().map(Arc::new).map_err(D::Error::custom)
    }
}

pub mod content {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Content {
        Buffer(Scannable),
        Refused(String),
    }

    pub fn serialize<S: Serializer>(content: &Result<Scannable, Refusal>, out: S) -> Result<S::Ok, S::Error> {
        let content = match content {
            Ok(buffer) => Content::Buffer(*buffer),
            Err(refusal) => Content::Refused(refusal.to_string()),
        };
        content.serialize(out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Result<Scannable, Refusal>, D::Error> {
        Ok(match Content::deserialize(from)? {
            Content::Buffer(buffer) => Ok(buffer),
            Content::Refused(reason) => Err(Refusal::Recorded { reason }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PlaneCaps, PlaneType, Rect, SourceRect, Zpos};
    use super::*;
    use crate::scanout::Layer;

    #[test]
    fn planes_and_layers_come_back_as_they_were() {
        let formats = [
            (DrmFourcc::Nv12, DrmModifier::from(0x0100_0000_0000_0002)),
            (DrmFourcc::R8, DrmModifier::Linear),
        ];
        let id = std::num::NonZeroU32::new(7).unwrap();
        let plane = PlaneCaps::new(id, PlaneType::Overlay, formats, Zpos::Range { min: -1, max: i64::MAX });
        let text = serde_json::to_string(&plane).unwrap();
        assert!(text.contains(r#"["R8  ",0]"#), "{text}");
        assert_eq!(serde_json::from_str::<PlaneCaps>(&text).unwrap(), plane);
        let dst = Rect::new(-3, 4, 50, 60);
        for content in [
            Ok(Scannable::new(DrmFourcc::P010, DrmModifier::Linear)),
            Err(Refusal::Recorded { reason: "the buffer is not a dma-buf".into() }),
        ] {
            let layer = Layer::new(dst, SourceRect::whole(50, 60), true, content);
            let text = serde_json::to_string(&layer).unwrap();
            assert_eq!(serde_json::from_str::<Layer>(&text).unwrap(), layer);
        }
        for bad in [r#""XYZ?""#, r#""XR2""#, "7"] {
            let mut from = serde_json::Deserializer::from_str(bad);
            assert!(format::deserialize(&mut from).is_err(), "{bad}");
        }
    }
}
