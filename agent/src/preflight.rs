//! What FRR lacks for what the manifests ask of it: a zebra, its FPM module, the address, `-R`, a version.
//!
//! Pure: [`crate::host`] gathers what of FRR shows, the daemon tells of session and imports, and the condition
//! `FRRPrepared` says the result with its fix.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::host::zebra::Version;
use crate::intent::types::Import;
use crate::status::reason;

/// FRR's module that speaks FPM.
pub(crate) const MODULE: &str = "dplane_fpm_nl";

/// Oldest FRR that is tested.
pub(crate) const OLDEST: Version = Version(8, 4);

/// First FRR with `-R` (`--routing-table`): 4d96ce1b4d.
pub(crate) const ROUTING_TABLE: Version = Version(9, 1);

/// How the module gets in.
pub(crate) const ADD_MODULE: &str = "add `-M dplane_fpm_nl` to zebra_options in /etc/frr/daemons (with FRR-K8s: in the ConfigMap \
                              frr-startup) and restart FRR";

/// The main table.
const MAIN: u32 = 254;

/// zebra, as far as it shows in this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Zebra {
    /// Nothing of it.
    #[default]
    Absent,
    /// Its sockets alone: it runs in another container.
    Hidden,
    /// Its process.
    Seen {
        /// Whether it was started with [`MODULE`].
        module: bool,
        /// Where its program could be asked.
        version: Option<Version>,
    },
}

/// What the agent knows by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// Where it waits for zebra.
    pub(crate) listen: SocketAddr,
    /// Whether zebra is connected.
    pub(crate) connected: bool,
    /// Tables that zebra announces.
    pub(crate) announced: &'a BTreeSet<u32>,
    /// Tables of this node's VRF devices: one without a route is nobody's fault.
    pub(crate) vrfs: &'a BTreeSet<u32>,
    /// What is to be imported.
    pub(crate) imports: &'a [Import],
}

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lack {
    /// One of the reasons of conditions.
    pub(crate) reason: &'static str,
    /// What was seen, and the fix.
    pub(crate) message: String,
}

impl Lack {
    fn new(reason: &'static str, message: impl Into<String>) -> Option<Self> {
        Some(Self { reason, message: message.into() })
    }
}

/// The first thing that FRR lacks; nothing, where nothing is imported.
pub(crate) fn lack(zebra: &Zebra, known: &Known<'_>) -> Option<Lack> {
    if known.imports.is_empty() {
        return None;
    }
    too_old(zebra)
        .or_else(|| if known.connected { table(zebra, known) } else { session(zebra, known.listen) })
}

fn too_old(zebra: &Zebra) -> Option<Lack> {
    match zebra {
        Zebra::Seen { version: Some(version), .. } if *version < OLDEST => {
            Lack::new(reason::FRR_TOO_OLD, format!("zebra {version} runs: upgrade to FRR {OLDEST} or newer"))
        }
        _ => None,
    }
}

/// Why nobody is connected.
fn session(zebra: &Zebra, listen: SocketAddr) -> Option<Lack> {
    let (ip, port) = (listen.ip(), listen.port());
    let line = format!("`fpm address {ip} port {port}` (in vtysh; with FRR-K8s: in spec.raw.rawConfig)");
    match zebra {
        Zebra::Absent => Lack::new(
            reason::FRR_NOT_RUNNING,
            "no zebra runs in this network namespace: start FRR here, with FRR-K8s see to its pod on this node",
        ),
        Zebra::Hidden => Lack::new(
            reason::MODULE_OR_ADDRESS_MISSING,
            format!(
                "zebra runs in another container and does not connect: it lacks the module or the address. {ADD_MODULE}; \
                 configure {line}"
            ),
        ),
        Zebra::Seen { module: true, .. } => Lack::new(
            reason::ADDRESS_NOT_CONFIGURED,
            format!("zebra has the module {MODULE} and does not connect: configure {line}"),
        ),
        Zebra::Seen { .. } => Lack::new(
            reason::MODULE_NOT_LOADED,
            format!("zebra was started without the module {MODULE}: {ADD_MODULE}; then configure {line}"),
        ),
    }
}

/// An import from a table that this zebra does not announce.
fn table(zebra: &Zebra, known: &Known<'_>) -> Option<Lack> {
    let absent = |import: &&Import| {
        let table = import.from_table;
        !known.announced.contains(&table) && !known.vrfs.contains(&table)
    };
    let import = known.imports.iter().find(absent)?;
    let owner = import.owners.first().map(ToString::to_string).unwrap_or_default();
    let from = import.from_table;
    // The table of the default VRF: of the others some may be FRR's own VRFs.
    let default = known.announced.iter().find(|table| !known.vrfs.contains(table))?;
    if *default != MAIN {
        return Lack::new(
            reason::ROUTING_TABLE_MISMATCH,
            format!(
                "{owner} takes table {from}, and zebra runs with `-R {default}`: import `from: {{table: {default}}}`"
            ),
        );
    }
    let fix = match zebra {
        Zebra::Seen { version: Some(version), .. } if *version < ROUTING_TABLE => format!(
            "FRR {version} has no -R: upgrade to {ROUTING_TABLE} or newer, or import `from: {{table: {MAIN}}}` into a table of its own"
        ),
        _ => format!(
            "add `-R {from}` to zebra_options (FRR {ROUTING_TABLE} or newer; with FRR-K8s: in the ConfigMap frr-startup) and \
             restart FRR, or import `from: {{table: {MAIN}}}` into a table of its own"
        ),
    };
    Lack::new(
        reason::ROUTING_TABLE_MISMATCH,
        format!(
            "{owner} takes table {from}, and zebra runs without -R, so its routes are of table {MAIN}: {fix}"
        ),
    )
}
