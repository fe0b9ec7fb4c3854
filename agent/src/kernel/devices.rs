//! VRF and VLAN devices, their members and addresses, with a record of what interfaces of others were before.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::actions::Actions;
use super::taken::{Mover, Snapshot};
use super::{KernelError, observe, record, taken};
use crate::model::Address;
use crate::model::devices::{Changed, DeviceOp, DeviceRecord, SINK_NAME, Subject};

/// Name of the record in the state directory.
pub const RECORD: &str = "devices.json";

/// The record on disk. Indices of interfaces are worth nothing after a reboot, and all changes are gone then.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    /// `/proc/sys/kernel/random/boot_id`
    boot: String,
    interfaces: DeviceRecord,
}

/// Applies operations on devices.
#[derive(Debug)]
pub struct DeviceWriter {
    actions: Actions,
    path: PathBuf,
    file: File,
}

impl DeviceWriter {
    /// Reads the record in `state_dir`, if there is one of this boot. The folder must exist once there is something
    /// to record.
    ///
    /// # Errors
    /// [`KernelError::Socket`], [`KernelError::File`], or [`KernelError::Record`] when the record is not one.
    pub fn open(state_dir: &Path, protocol: u8) -> Result<Self, KernelError> {
        let boot = record::boot_id()?;
        let path = state_dir.join(RECORD);
        let mut file: File = record::read(&path)?;
        if file.boot != boot {
            file = File { boot, interfaces: DeviceRecord::new() };
        }
        Ok(Self { actions: Actions::open(protocol)?, path, file })
    }

    /// What was changed on interfaces of others.
    #[must_use]
    pub fn record(&self) -> &DeviceRecord {
        &self.file.interfaces
    }

    /// Applies one operation. What it changes on an interface of others is on disk before.
    ///
    /// # Errors
    /// [`KernelError`]; a move that fails leaves the interface as it was.
    pub async fn apply(&mut self, op: &DeviceOp) -> Result<(), KernelError> {
        match op {
            DeviceOp::MakeVrf(vrf) => self.actions.create_vrf(&vrf.name, vrf.table).await.map(drop),
            DeviceOp::MakeVlan(name, parent, vlan) => {
                self.actions.create_vlan(name, *parent, vlan.id, vlan.mtu).await.map(drop)
            }
            DeviceOp::MakeSink => self.actions.create_sink(SINK_NAME).await.map(drop),
            DeviceOp::HandOver(link) => self.actions.unmark(link.ifindex).await,
            DeviceOp::SetUp(link) => self.actions.set_up(link.ifindex).await,
            DeviceOp::SetMtu(link, mtu) => self.actions.set_mtu(link.ifindex, *mtu).await,
            DeviceOp::Join { link, vrf, table, preserve, foreign } => {
                self.join(link, (*vrf, *table), *preserve, *foreign).await
            }
            DeviceOp::Leave(link) => self.set_controller(link, None, true, false).await,
            DeviceOp::Disown(link) => self.change(link, Changed::disown),
            DeviceOp::PutBack(link) => self.put_back(link).await,
            DeviceOp::Restore(link) => self.restore(link).await,
            DeviceOp::AddAddress { link, net, foreign } => {
                if *foreign {
                    self.change(link, |changed| changed.added.extend([*net]))?;
                }
                self.actions.add_address(link.ifindex, &Address::plain(*net)).await
            }
            DeviceOp::RemoveAddress(link, net) => {
                let removed = self.actions.del_address(link.ifindex, &Address::plain(*net)).await;
                // Somebody else may have been first.
                removed.or_else(|error| if error.is_absent() { Ok(()) } else { Err(error) })?;
                self.change(link, |changed| changed.added.retain(|added| added != net))
            }
            DeviceOp::Delete(link) => self.actions.delete_link(link.ifindex).await,
            DeviceOp::Forget(ifindex) => {
                self.file.interfaces.remove(ifindex);
                self.save()
            }
        }
    }

    /// Notes a change of an interface, and forgets it where nothing is changed any more.
    fn change(&mut self, link: &Subject, change: impl FnOnce(&mut Changed)) -> Result<(), KernelError> {
        let changed = self.file.interfaces.entry(link.ifindex).or_default();
        changed.name.clone_from(&link.name);
        change(changed);
        if !changed.member && changed.added.is_empty() && changed.lost.is_empty() {
            self.file.interfaces.remove(&link.ifindex);
        }
        self.save()
    }

    fn save(&self) -> Result<(), KernelError> {
        record::write(&self.path, &self.file)
    }

    async fn join(
        &mut self,
        link: &Subject,
        (vrf, table): (u32, u32),
        preserve: bool,
        foreign: bool,
    ) -> Result<(), KernelError> {
        let first = foreign && !self.file.interfaces.get(&link.ifindex).is_some_and(|changed| changed.member);
        if foreign {
            self.change(link, |changed| {
                changed.member = true;
                changed.tables.insert(table);
            })?;
        }
        let joined = self.set_controller(link, Some(vrf), preserve, foreign).await;
        match &joined {
            Err(KernelError::Refused { .. }) if first => self.restore(link).await?,
            Ok(()) if foreign => self.change(link, |changed| changed.tables = [table].into())?,
            _ => {}
        }
        joined
    }

    /// Moves an interface. What the kernel takes from it meanwhile is on disk before, and put back after; what cannot
    /// be put back yet stays recorded. With `returns`, so do the routes of main, until it leaves.
    async fn set_controller(
        &mut self,
        link: &Subject,
        controller: Option<u32>,
        preserve: bool,
        returns: bool,
    ) -> Result<(), KernelError> {
        let mover = Mover::new(link.ifindex, preserve, &observe::links().await?);
        let Snapshot { lost, main, routes } = mover.snapshot().await?;
        self.change(link, |changed| {
            changed.lost.extend(lost);
            if returns {
                changed.main.extend(main);
                changed.routes.extend(routes);
            }
        })?;
        let moved = self.actions.set_controller(link.ifindex, controller).await;
        if let Err(error) = self.put_back(link).await {
            tracing::debug!(%error, "it is tried again");
        }
        moved
    }

    /// Puts back what main lost, as far as it still fits.
    async fn restore(&mut self, link: &Subject) -> Result<(), KernelError> {
        let Some(changed) = self.file.interfaces.get(&link.ifindex) else { return Ok(()) };
        let mut main = changed.main.clone();
        if main.is_empty() {
            // Earlier versions recorded no messages.
            main = changed.routes.iter().map(taken::of_route).collect::<Result<_, _>>()?;
        }
        self.change(link, |changed| {
            changed.disown();
            changed.lost.extend(main);
        })?;
        self.put_back(link).await
    }

    /// Puts back what the last move took.
    async fn put_back(&mut self, link: &Subject) -> Result<(), KernelError> {
        let Some(changed) = self.file.interfaces.get(&link.ifindex) else { return Ok(()) };
        let (refused, error) = taken::put_back(changed.lost.clone()).await?;
        self.change(link, |changed| changed.lost = refused)?;
        error.map_or(Ok(()), Err)
    }
}
