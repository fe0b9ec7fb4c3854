//! Names of pins in the bpffs folder. They hold the ifindex in hex: a name may have a dot, and a pin may not.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::SteeringError;

/// Prefix of maps that a newer layout replaced, until no program reads them any more.
pub(super) const OLD: &str = "old_";

/// Side of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// tc egress.
    Egress,
    /// tc ingress.
    Ingress,
}

impl Direction {
    /// As people write it.
    #[must_use]
    pub fn hook(self) -> &'static str {
        match self {
            Self::Egress => "tc egress",
            Self::Ingress => "tc ingress",
        }
    }
}

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// A pinned TCX link, first in its chain (Linux 6.6).
    Tcx,
    /// A filter of the clsact qdisc, with priority 1.
    Clsact,
}

/// A pin that says what is attached, or made, on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Pin {
    /// A TCX link; or the program of a clsact filter, which the kernel holds without a pin.
    Attachment { ifindex: u32, direction: Direction, hook: Hook },
    /// The clsact qdisc of this interface is ours.
    Qdisc { ifindex: u32 },
}

impl Pin {
    pub(super) fn name(self) -> String {
        match self {
            Self::Qdisc { ifindex } => format!("qdisc_{ifindex:x}"),
            Self::Attachment { ifindex, direction, hook } => {
                let kind = if hook == Hook::Tcx { "link" } else { "filter" };
                let side = if direction == Direction::Ingress { "in" } else { "eg" };
                format!("{kind}_{ifindex:x}_{side}")
            }
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once('_')?;
        let hex = |text: &str| u32::from_str_radix(text, 16).ok();
        let hook = match kind {
            "qdisc" => return Some(Self::Qdisc { ifindex: hex(rest)? }),
            "link" => Hook::Tcx,
            "filter" => Hook::Clsact,
            _ => return None,
        };
        let (index, side) = rest.split_once('_')?;
        let direction = match side {
            "in" => Direction::Ingress,
            "eg" => Direction::Egress,
            _ => return None,
        };
        Some(Self::Attachment { ifindex: hex(index)?, direction, hook })
    }
}

/// The folder of pins.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Names of all pins, sorted; none where the folder does not exist.
    pub(super) fn names(&self) -> Result<Vec<String>, SteeringError> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(SteeringError::pin("read", &self.0)(error)),
        };
        let mut names: Vec<String> =
            entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The pins of attachments and qdiscs.
    pub(super) fn pins(&self) -> Result<Vec<Pin>, SteeringError> {
        Ok(self.names()?.iter().filter_map(|name| Pin::parse(name)).collect())
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Removes a pin; one that is not there is removed already.
    pub(super) fn remove(&self, name: &str) -> Result<(), SteeringError> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(SteeringError::pin("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), SteeringError> {
        let path = self.path(from);
        std::fs::rename(&path, self.path(to)).map_err(SteeringError::pin("rename", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_hold_no_dot() {
        let attachment = |direction, hook| Pin::Attachment { ifindex: 0x1f2, direction, hook };
        for pin in [
            attachment(Direction::Ingress, Hook::Tcx),
            attachment(Direction::Egress, Hook::Tcx),
            attachment(Direction::Ingress, Hook::Clsact),
            Pin::Qdisc { ifindex: 7 },
        ] {
            assert_eq!(Pin::parse(&pin.name()), Some(pin));
            assert!(!pin.name().contains('.'));
        }
        assert_eq!(attachment(Direction::Ingress, Hook::Tcx).name(), "link_1f2_in");
        for foreign in ["rp_flows", "link_", "link_zz_in", "link_1_up", "old_rp_flows"] {
            assert_eq!(Pin::parse(foreign), None, "{foreign}");
        }
    }
}
