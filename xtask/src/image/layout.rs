//! An OCI image layout (image-spec 1.1, `image-layout.md`) with one image of one layer, as a tar archive: what `ctr images
//! import`, `podman load`, `docker load` and `skopeo copy oci-archive:…` read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Something in a tar archive. All belong to root and are of 1970.
pub(super) enum Entry {
    Folder,
    File { mode: u32, data: Vec<u8> },
}

/// A layer that is in the layout.
pub(super) struct Layer {
    descriptor: Value,
    /// Digest of the archive before compression.
    pub(super) diff_id: String,
}

/// The layout as it grows: files by path.
#[derive(Default)]
pub(super) struct Layout {
    files: BTreeMap<PathBuf, Entry>,
}

impl Layout {
    fn file(&mut self, path: impl Into<PathBuf>, data: Vec<u8>) {
        self.files.insert(path.into(), Entry::File { mode: 0o644, data });
    }

    /// Adds a blob; returns its descriptor.
    fn blob(&mut self, media_type: &str, data: Vec<u8>) -> Value {
        let digest = sha256(&data);
        let size = data.len();
        self.file(Path::new("blobs/sha256").join(&digest), data);
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
    }

    /// Adds a layer of these files.
    pub(super) fn layer(&mut self, files: &BTreeMap<PathBuf, Entry>) -> Result<Layer> {
        let archive = tar(files)?;
        let diff_id = format!("sha256:{}", sha256(&archive));
        // Without a time in its header, which would be the only thing in it that differs.
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&archive)?;
        let descriptor = self.blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip.finish()?);
        Ok(Layer { descriptor, diff_id })
    }

    /// Adds the image itself; returns its digest.
    pub(super) fn manifest(&mut self, config: &Value, layer: &Layer, name: &str) -> Result<String> {
        const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
        let config = self.blob("application/vnd.oci.image.config.v1+json", serde_json::to_vec(config)?);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer.descriptor],
        });
        let mut descriptor = self.blob(MANIFEST, serde_json::to_vec(&manifest)?);
        let digest = descriptor.get("digest").and_then(Value::as_str).context("no digest")?.to_owned();
        let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        descriptor["annotations"] = json!({
            "org.opencontainers.image.ref.name": tag,
            // What containerd calls it after an import.
            "io.containerd.image.name": name,
        });
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        self.file("index.json", serde_json::to_vec(&index)?);
        self.file("oci-layout", serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?);
        Ok(digest)
    }

    /// The finished layout.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        tar(&self.files)
    }
}

fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An archive of `files` and the folders above them, each once, in order.
fn tar(files: &BTreeMap<PathBuf, Entry>) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for (path, entry) in files {
        let above = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
        let mut above: Vec<&Path> = above.collect();
        above.reverse();
        above.extend(matches!(entry, Entry::Folder).then_some(path.as_path()));
        for folder in above {
            if folders.insert(folder) {
                append(&mut archive, folder, tar::EntryType::Directory, 0o755, &[])?;
            }
        }
        if let Entry::File { mode, data } = entry {
            append(&mut archive, path, tar::EntryType::Regular, *mode, data)?;
        }
    }
    Ok(archive.into_inner()?)
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &Path,
    kind: tar::EntryType,
    mode: u32,
    data: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    let added = archive.append_data(&mut header, path, data);
    added.with_context(|| format!("cannot pack {}", path.display()))
}
