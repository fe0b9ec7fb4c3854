//! Which imports a route comes from: what `maxRoutes` counts. Equal answers share a number.

use smallvec::SmallVec;

use super::{ADOPTED, Engine, Entry, Key};
use crate::plan::ImportPlan;
use crate::rib::Slot;

impl Engine {
    pub(super) fn contribution(&self, index: u16) -> &[u16] {
        self.contributions.get(usize::from(index)).map_or(&[], |imports| imports.as_slice())
    }

    /// Counts a key for the imports that it comes from now.
    pub(super) fn count(&mut self, entry: &Entry, imports: &SmallVec<[u16; 2]>) -> u16 {
        if self.contribution(entry.contribution) == imports.as_slice() {
            return entry.contribution;
        }
        let new = self.intern_contribution(imports);
        for import in imports {
            if let Some(accepted) = self.accepted.get_mut(usize::from(*import)) {
                *accepted += 1;
            }
        }
        self.uncount(entry.contribution);
        new
    }

    /// What a route that an earlier agent left counts for until FRR says more: the first import that may have made it
    /// and has room. Else new routes would take the room that it still has, and `maxRoutes` be exceeded.
    pub(super) fn presume(&mut self, key: Key) -> u16 {
        let (table, metric) = self.targets.get(usize::from(key.0)).copied().unwrap_or_default();
        if self.plan.static_routes.contains_key(&self.route_key(key)) {
            return 0;
        }
        let may = |(index, import): &(u16, &ImportPlan)| {
            import.writes_to(table, metric, &key.1) && !self.is_full(*index, import)
        };
        let maker = self.plan.imports_into(table, metric).find(may).map(|(index, _)| index);
        let Some(index) = maker else { return 0 };
        self.count(&Entry::default(), &SmallVec::from_slice(&[index]))
    }

    /// Presumes anew for all that is not confirmed, after another plan.
    pub(super) fn presume_adopted(&mut self) {
        let adopted = self.held().filter(|(.., entry)| entry.flags & ADOPTED != 0);
        let adopted: Vec<(Slot, Key)> = adopted.map(|(slot, key, _)| (slot, key)).collect();
        for (slot, key) in adopted {
            let contribution = self.presume(key);
            self.edit(slot, |entry| entry.contribution = contribution);
        }
    }

    fn intern_contribution(&mut self, imports: &SmallVec<[u16; 2]>) -> u16 {
        if imports.is_empty() {
            return 0;
        }
        if let Some(index) = self.contribution_index.get(imports) {
            return *index;
        }
        let Ok(index) = u16::try_from(self.contributions.len()) else { return 0 };
        self.contributions.push(imports.clone());
        self.contribution_index.insert(imports.clone(), index);
        index
    }

    pub(super) fn uncount(&mut self, contribution: u16) {
        let imports: SmallVec<[u16; 2]> = SmallVec::from_slice(self.contribution(contribution));
        for import in imports {
            if let Some(accepted) = self.accepted.get_mut(usize::from(import)) {
                *accepted = accepted.saturating_sub(1);
            }
        }
        // There may be room again for what was turned away, by this import or, at the node's limit, by any.
        self.has_room |= !self.limited.is_empty();
    }
}
