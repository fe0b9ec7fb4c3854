//! What must outlive the agent, in the state directory: small JSON files, replaced atomically.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::apply::PAUSED;
use super::manifests::KEPT;
use super::trial::TRIAL;
use crate::intent::types::{Config, Intent};
use crate::status::reason;

const FEED: &str = "feed.json";
const OWNED: &str = "owned.json";

/// Names of the files in the state directory, apart from the record of sysctls.
pub const STATE_FILES: [&str; 5] = [FEED, OWNED, KEPT, PAUSED, TRIAL];

/// The zebra whose state the agent held whole when it last said so, and the tables that zebra writes.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FeedFile {
    synced_pid: Option<u32>,
    #[serde(default)]
    tables: BTreeSet<u32>,
}

/// What carries our mark, for `cleanup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owned {
    /// `rtm_protocol` of routes, rules and nexthop objects.
    pub route_protocol: u8,
    /// Nexthop object ids, inclusive.
    pub nexthop_ids: (u32, u32),
    /// Rule priorities, inclusive.
    pub rule_priorities: (u32, u32),
}

impl Owned {
    /// What a configuration makes ours.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            route_protocol: config.route_protocol,
            nexthop_ids: config.nexthop_ids,
            rule_priorities: config.rule_priorities,
        }
    }

    /// What the last agent with this state directory owned; the defaults if there was none.
    #[must_use]
    pub fn read(state_dir: &Path) -> Self {
        read(&state_dir.join(OWNED)).unwrap_or_else(|| Self::of(&Config::default()))
    }
}

/// The state directory.
#[derive(Debug)]
pub(super) struct Persisted {
    dir: PathBuf,
    feed: FeedFile,
    owned: Owned,
}

impl Persisted {
    /// Reads what an earlier agent left, or notes what this one owns.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(super) fn open(dir: &Path, config: &Config) -> anyhow::Result<Self> {
        let path = dir.join(OWNED);
        let owned = read(&path).unwrap_or_else(|| Owned::of(config));
        write(&path, &owned).with_context(|| format!("--state-dir {}: cannot be written", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), feed: read(&dir.join(FEED)).unwrap_or_default(), owned })
    }

    /// Holds a new intent to what is owned already. With another mark, what carries the old one would be nobody's:
    /// only after `cleanup` may ownership change.
    pub(super) fn keep_ownership(&self, intent: &mut Intent) {
        if Owned::of(&intent.config) == self.owned {
            return;
        }
        let Owned { route_protocol, nexthop_ids, rule_priorities } = self.owned;
        let message = format!(
            "ownership stays at protocol {route_protocol}, nexthop ids {}-{}, rules {}-{}, which objects in the kernel \
             carry: stop the agent and run `backtrail cleanup` before it changes",
            nexthop_ids.0, nexthop_ids.1, rule_priorities.0, rule_priorities.1
        );
        tracing::warn!("{message}");
        intent.config = Config { route_protocol, nexthop_ids, rule_priorities, ..intent.config.clone() };
        for object in intent.objects.iter_mut().filter(|object| object.object.kind == "DataplaneConfig") {
            reason::PARTIAL.clone_into(&mut object.reason);
            object.message.clone_from(&message);
        }
    }

    pub(super) fn synced_pid(&self) -> Option<u32> {
        self.feed.synced_pid
    }

    pub(super) fn zebra_tables(&self) -> &BTreeSet<u32> {
        &self.feed.tables
    }

    /// Notes the zebra whose state we hold whole, and its tables.
    pub(super) fn set_feed(&mut self, synced_pid: Option<u32>, tables: &BTreeSet<u32>) {
        if self.feed.synced_pid == synced_pid && self.feed.tables == *tables {
            return;
        }
        self.feed = FeedFile { synced_pid, tables: tables.clone() };
        if let Err(error) = write(&self.dir.join(FEED), &self.feed) {
            // The next start then waits for `onFeedLoss.timeout` instead of the replay's end.
            tracing::warn!(%error, "cannot note the state of the feed");
        }
    }
}

/// A JSON file, if it is there and whole.
pub(super) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Replaces a JSON file atomically.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
