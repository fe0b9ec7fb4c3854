//! VRF and VLAN devices, their members and addresses, with a record of what interfaces of others were before.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::actions::Actions;
use super::dump::{RouteFilter, dump_routes};
use super::programmer::{RouteOp, write_routes};
use super::{KernelError, record};
use crate::model::devices::{Changed, DeviceOp, DeviceRecord, SINK_NAME, Subject};
use crate::model::{Address, KernelRoute, RouteTarget, TABLE_MAIN};

/// Name of the record in the state directory.
pub const RECORD: &str = "devices.json";

/// RTPROT_BOOT, RTPROT_STATIC and RTPROT_DHCP: routes that nobody puts back when the kernel drops them with a move. The
/// kernel's own and those of router advertisements come back by themselves, those of daemons are the daemons'.
const ORPHANS: [u8; 3] = [3, 4, 16];

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
            DeviceOp::Leave(link) => self.actions.set_controller(link.ifindex, None, true).await,
            DeviceOp::Disown(link) => self.change(link, Changed::disown),
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
        if !changed.member && changed.added.is_empty() {
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
        let before = self.file.interfaces.get(&link.ifindex).cloned().unwrap_or_default();
        let first = foreign && !before.member;
        if first {
            let routes = orphans(link.ifindex).await?;
            self.change(link, |changed| (changed.member, changed.routes) = (true, routes))?;
        }
        if foreign {
            self.change(link, |changed| changed.tables.extend([table]))?;
        }
        let joined = self.actions.set_controller(link.ifindex, Some(vrf), preserve).await;
        match &joined {
            Err(_) if first => self.restore(link).await?,
            _ if foreign => {
                let tables = if joined.is_ok() { [table].into() } else { before.tables };
                self.change(link, |changed| changed.tables = tables)?;
            }
            _ => {}
        }
        joined
    }

    /// Puts back what main lost, as far as it still fits.
    async fn restore(&mut self, link: &Subject) -> Result<(), KernelError> {
        let routes = self.file.interfaces.get(&link.ifindex).map(|changed| changed.routes.clone());
        let ops = routes.into_iter().flatten().map(RouteOp::AddRoute).collect();
        let (ops, errors) = write_routes(ops).await?;
        if let Some(error) = errors.into_iter().find(|error| error.errno != libc::EEXIST) {
            let object = ops.get(error.index).map(ToString::to_string).unwrap_or_default();
            return Err(KernelError::Refused { object, errno: error.errno, text: error.text });
        }
        self.change(link, Changed::disown)
    }
}

/// The routes of main that lead by one interface alone and that nobody would put back.
async fn orphans(ifindex: u32) -> Result<Vec<KernelRoute>, KernelError> {
    let filter = RouteFilter { table: Some(TABLE_MAIN), interface: Some(ifindex), ..RouteFilter::default() };
    let dumped = tokio::task::spawn_blocking(move || {
        let mut routes = Vec::new();
        dump_routes(filter, &mut |route| {
            let alone = matches!(&route.target, RouteTarget::Inline(hops)
                if hops.iter().all(|(hop, _)| hop.ifindex == ifindex));
            if alone && ORPHANS.contains(&route.protocol) {
                routes.push(route);
            }
        })?;
        // Routes without a gateway first: the others' gateways may be reached by them.
        routes.sort_by_key(|route| match &route.target {
            RouteTarget::Inline(hops) => hops.iter().any(|(hop, _)| hop.gateway.is_some()),
            _ => true,
        });
        Ok(routes)
    });
    dumped.await.unwrap_or_else(|error| {
        Err(KernelError::Socket { doing: "dump on a thread", source: std::io::Error::other(error) })
    })
}
