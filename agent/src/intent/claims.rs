//! Who asks for what, and who wins where two disagree.
//!
//! Every item is settled by itself and by the same order: what is programmed already, then the older object,
//! then the lower name. So the outcome does not depend on the order in which manifests are read.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::types::{Conflict, Intent, ObjectRef};
use crate::status::reason;

/// An object that is for this node.
#[derive(Debug)]
pub(super) struct Asker<'a, S> {
    pub(super) object: ObjectRef,
    pub(super) created: Option<Timestamp>,
    pub(super) spec: &'a S,
}

impl<S> Asker<'_, S> {
    pub(super) fn who(&self) -> Who<'_> {
        Who { created: self.created, object: &self.object }
    }
}

/// Who claims an item. The order is that of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who<'a> {
    created: Option<Timestamp>,
    pub(super) object: &'a ObjectRef,
}

/// The outcome for one item.
#[derive(Debug)]
pub(super) struct Settled<'a, V> {
    pub(super) value: V,
    pub(super) winner: Who<'a>,
    /// All who asked for this value, in order of precedence.
    pub(super) backers: Vec<Who<'a>>,
    /// Those who asked for another.
    pub(super) losers: Vec<(Who<'a>, V)>,
}

/// Settles an item: the programmed value if somebody still asks for it, else that of the first in order.
pub(super) fn settle<'a, V: PartialEq>(
    mut claims: Vec<(Who<'a>, V)>,
    programmed: Option<&V>,
) -> Option<Settled<'a, V>> {
    claims.sort_by_key(|(who, value)| (programmed != Some(value), *who));
    let mut claims = claims.into_iter();
    let (winner, value) = claims.next()?;
    let (agreeing, losers): (Vec<_>, Vec<_>) = claims.partition(|(_, v)| *v == value);
    let backers = std::iter::once(winner).chain(agreeing.into_iter().map(|(who, _)| who)).collect();
    Some(Settled { value, winner, backers, losers })
}

/// What is found out while merging.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) conflicts: Vec<Conflict>,
    /// Objects of which something is in force.
    pub(super) in_force: BTreeSet<ObjectRef>,
    /// Objects, or parts of them, that are refused without a rival: reason and message.
    pub(super) refused: BTreeMap<ObjectRef, Vec<(&'static str, String)>>,
}

impl Report {
    pub(super) fn conflict(
        &mut self,
        loser: &ObjectRef,
        item: String,
        reason: &str,
        winner: &ObjectRef,
        message: String,
    ) {
        self.conflicts.push(Conflict {
            object: loser.clone(),
            item,
            reason: reason.to_owned(),
            winner: winner.clone(),
            message,
        });
    }

    pub(super) fn refuse(&mut self, object: &ObjectRef, reason: &'static str, message: String) {
        self.refused.entry(object.clone()).or_default().push((reason, message));
    }

    pub(super) fn accept<'a>(&mut self, owners: impl IntoIterator<Item = &'a ObjectRef>) {
        self.in_force.extend(owners.into_iter().cloned());
    }
}

/// Owners in order, each once.
pub(super) fn owners(backers: &[Who<'_>]) -> Vec<ObjectRef> {
    let mut backers = backers.to_vec();
    backers.sort();
    backers.dedup();
    backers.into_iter().map(|who| who.object.clone()).collect()
}

/// `DataplaneConfig/default`, the winner where a guardrail or a range decides.
pub(super) fn dataplane_config() -> ObjectRef {
    ObjectRef { kind: "DataplaneConfig".into(), name: "default".into() }
}

/// Which name belongs to which table: one VRF has one table, one table has one VRF.
#[derive(Debug, Default)]
pub(super) struct Identities {
    tables: BTreeMap<String, (u32, ObjectRef)>,
    names: BTreeMap<u32, (String, ObjectRef)>,
}

/// Why a name and a table do not go together.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) reason: &'static str,
    pub(super) winner: ObjectRef,
    pub(super) message: String,
}

impl Identities {
    /// Settles all claims of (name, table): what is programmed, then age, then attachments before those who
    /// only use a VRF, then names.
    pub(super) fn settle<'a>(
        claims: impl Iterator<Item = (Who<'a>, &'a str, u32)>,
        previous: Option<&Intent>,
    ) -> Self {
        let programmed = previous.map(programmed_identities).unwrap_or_default();
        let mut claims: Vec<_> = claims.collect();
        claims.sort_by_key(|&(who, name, table)| {
            let attaches = who.object.kind == "VRFAttachment";
            (!programmed.contains(&(name, table)), who.created, !attaches, who, table)
        });
        let mut settled = Self::default();
        for (who, name, table) in claims {
            if !settled.tables.contains_key(name) && !settled.names.contains_key(&table) {
                settled.tables.insert(name.to_owned(), (table, who.object.clone()));
                settled.names.insert(table, (name.to_owned(), who.object.clone()));
            }
        }
        settled
    }

    /// Whether a name and a table go together.
    pub(super) fn check(&self, name: &str, table: u32) -> Result<(), Mismatch> {
        match (self.tables.get(name), self.names.get(&table)) {
            (Some((known, winner)), _) if *known != table => Err(Mismatch {
                reason: reason::VRF_TABLE_MISMATCH,
                winner: winner.clone(),
                message: format!(
                    "VRF {name} has table {known} in {winner}, and table {table} here: use one table"
                ),
            }),
            (_, Some((known, winner))) if known != name => Err(Mismatch {
                reason: reason::TABLE_REUSED,
                winner: winner.clone(),
                message: format!(
                    "table {table} belongs to VRF {known} in {winner}: choose another table for {name}"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The VRF that a table belongs to.
    pub(super) fn name_of(&self, table: u32) -> Option<&str> {
        self.names.get(&table).map(|(name, _)| name.as_str())
    }
}

fn programmed_identities(previous: &Intent) -> BTreeSet<(&str, u32)> {
    let vrfs = previous.vrfs.iter().map(|v| (v.name.as_str(), v.table));
    let imports = previous.imports.iter().filter_map(|i| Some((i.into.vrf.as_deref()?, i.into.table)));
    let rules = previous.rules.iter().map(|r| (r.vrf.as_str(), r.table));
    vrfs.chain(imports).chain(rules).collect()
}
