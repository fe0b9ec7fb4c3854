//! Manifests as read: where from, and what of.

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::types::ObjectRef;
use crate::api::{DataplaneConfig, ReturnPath, RouteImport, TrafficPolicy, VRFAttachment};

/// Where a manifest was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// Which document of the file, from 1; 0: the file as a whole.
    pub document: usize,
    /// Line at which the document begins, from 1; 0: the file as a whole.
    pub line: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.document > 0 {
            write!(f, ": document {} (line {})", self.document, self.line)?;
        }
        Ok(())
    }
}

/// A valid manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Where it was read.
    pub source: Source,
    /// What it says.
    pub object: Object,
    /// It was valid once and is kept because what is there now is not.
    #[serde(skip)]
    pub retained: bool,
}

/// An object that says what is wanted.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the kinds")]
pub enum Object {
    DataplaneConfig(Box<DataplaneConfig>),
    VRFAttachment(Box<VRFAttachment>),
    RouteImport(Box<RouteImport>),
    TrafficPolicy(Box<TrafficPolicy>),
    ReturnPath(Box<ReturnPath>),
}

impl Object {
    /// Reads a manifest of one of the kinds. Fields that the kind does not know are ignored: see [`super::load`].
    ///
    /// # Errors
    /// When the kind is not one of ours or a field has the wrong form.
    pub fn from_value(value: Value) -> Result<Self, serde_json::Error> {
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kind.as_str() {
            "DataplaneConfig" => serde_json::from_value(value).map(Self::DataplaneConfig),
            "VRFAttachment" => serde_json::from_value(value).map(Self::VRFAttachment),
            "RouteImport" => serde_json::from_value(value).map(Self::RouteImport),
            "TrafficPolicy" => serde_json::from_value(value).map(Self::TrafficPolicy),
            "ReturnPath" => serde_json::from_value(value).map(Self::ReturnPath),
            other => Err(de::Error::custom(format!("unknown kind {other:?}"))),
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DataplaneConfig(_) => "DataplaneConfig",
            Self::VRFAttachment(_) => "VRFAttachment",
            Self::RouteImport(_) => "RouteImport",
            Self::TrafficPolicy(_) => "TrafficPolicy",
            Self::ReturnPath(_) => "ReturnPath",
        }
    }

    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::DataplaneConfig(o) => &o.metadata,
            Self::VRFAttachment(o) => &o.metadata,
            Self::RouteImport(o) => &o.metadata,
            Self::TrafficPolicy(o) => &o.metadata,
            Self::ReturnPath(o) => &o.metadata,
        }
    }

    /// Its name as users know it.
    #[must_use]
    pub fn object_ref(&self) -> ObjectRef {
        ObjectRef { kind: self.kind().to_owned(), name: self.metadata().name.clone().unwrap_or_default() }
    }

    /// When it was created, where that is known (not in files).
    #[must_use]
    pub fn created(&self) -> Option<Timestamp> {
        self.metadata().creation_timestamp.as_ref().map(|t| t.0)
    }

    /// Nodes that it is for; `None`: all.
    #[must_use]
    pub fn node_selector(&self) -> Option<&LabelSelector> {
        match self {
            Self::DataplaneConfig(_) => None,
            Self::VRFAttachment(o) => Some(&o.spec.node_selector),
            Self::RouteImport(o) => Some(&o.spec.node_selector),
            Self::TrafficPolicy(o) => Some(&o.spec.node_selector),
            Self::ReturnPath(o) => Some(&o.spec.node_selector),
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A manifest that cannot be used: `file: document (line): object: field: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoadError {
    /// Where it was read.
    pub source_file: Source,
    /// The object, where kind and name could be read.
    pub object: Option<ObjectRef>,
    /// Path of the field, where one is to blame.
    pub field: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl std::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source_file)?;
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}", self.message)
    }
}
