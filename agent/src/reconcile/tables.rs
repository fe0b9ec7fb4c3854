//! The tables that zebra writes itself, where nothing else may write. One is zebra's from its first route on. That zebra has
//! no route there for a while says little: BGP converges after zebra's replay, peers flap, and of some tables (staticd's
//! `table 100`) zebra replays nothing. So a table stays zebra's, over restarts too, until a later session has said nothing of it and the
//! kernel holds nothing of zebra's there.

use std::collections::BTreeSet;
use std::time::Instant;

use zebra_fpm::session::{FeedState, GRACE};

use super::Engine;
use crate::plan::ZebraTables;

impl Engine {
    /// What an earlier agent knew.
    pub fn remember_tables(&mut self, tables: &BTreeSet<u32>) {
        self.zebra.tables.extend(tables);
    }

    /// What is known of zebra's tables.
    #[must_use]
    pub fn zebra_tables(&self) -> &ZebraTables {
        &self.zebra
    }

    pub(super) fn note_tables(&mut self) {
        self.zebra.tables.extend(self.rib.announced_tables());
    }

    /// Tables of zebra's of which this session has announced nothing, in its replay and the time that BGP takes to converge
    /// after it: zebra's only if the kernel holds routes of it there.
    pub fn silent_tables(&self, now: Instant) -> impl Iterator<Item = u32> + '_ {
        let all_said = match self.feed.state() {
            FeedState::Complete(at) => self.feed.is_synchronized() && now >= at + GRACE,
            FeedState::Lost(_) | FeedState::Replay(_) => false,
        };
        let said = self.rib.announced_tables();
        self.zebra.tables.iter().copied().filter(move |table| all_said && !said.contains(table))
    }

    /// A table is zebra's no more.
    pub fn forget_table(&mut self, table: u32) {
        self.zebra.tables.remove(&table);
    }
}
