//! The vocabulary of conditions and reasons. Tools match on these words: they are added, never renamed.
//! `docs/cli.md` lists every one; a test holds the two together.

/// Declares constants and the slice of all of them.
macro_rules! words {
    ($(#[$doc:meta])* $all:ident: $($name:ident = $word:literal, $meaning:literal;)+) => {
        $(#[doc = $meaning] pub const $name: &str = $word;)+
        $(#[$doc])*
        pub const $all: &[&str] = &[$($name),+];
    };
}

/// Types of conditions.
pub mod condition {
    words! {
        /// Every type of condition.
        ALL:
        READY = "Ready", "Everything asked for is in force.";
        ENFORCED = "Enforced", "What is decided is written to the kernel, and passes its probes.";
        ACCEPTED = "Accepted", "An object is valid and in force on this node.";
        CONFLICTED = "Conflicted", "An item disagrees with another object and was left out.";
        FPM_CONNECTED = "FPMConnected", "FRR's zebra is connected.";
        FRR_PREPARED = "FRRPrepared", "FRR has the module, the address and the options that the imports need.";
        SYNCHRONIZED = "Synchronized", "FRR's whole table was received and nothing of it is stale.";
        PROGRAMMED = "Programmed", "The kernel has acknowledged all that is wanted.";
        DATAPLANE_ATTACHED = "DataplaneAttached", "The tc programs are attached where they should be.";
        GUARDRAIL_TRIPPED = "GuardrailTripped", "A guardrail keeps something out.";
        FIB_CONSISTENT = "FIBConsistent", "The kernel holds what was acknowledged.";
        FOREIGN_INTERFERENCE = "ForeignInterference", "Somebody else changes or shadows what is ours.";
        ATTACHED = "Attached", "The programs of a `ReturnPath` are attached on every node that it is for.";
        LIMIT_REACHED = "LimitReached", "A `RouteImport` is at its `maxRoutes` on some node.";
        CLUSTER_SYNCHRONIZED = "ClusterSynchronized", "What is in force is what the API server says (with `--kubernetes`).";
        DEGRADED = "Degraded", "Some of what was asked for does not work; the rest does.";
    }
}

words! {
    /// Every reason of conditions of the node and of objects.
    CONDITIONS:
    // Ready, Degraded
    ALL_WELL = "AllWell", "Nothing is wrong.";
    STARTING = "Starting", "The first pass has not ended.";
    PARTIAL = "Partial", "Some parts failed; the message names them.";
    // Enforced
    ENFORCING = "Enforcing", "Changes are written.";
    PAUSED = "Paused", "Nothing is written: `backtrail pause`, or the annotation `backtrail.dev/paused`.";
    PROBING = "Probing", "A change is being written, or `apply.probes` are under way.";
    ROLLED_BACK = "RolledBack", "A probe failed after a change: the configuration that was written before is in force until the new one is edited.";
    PROBE_FAILED = "ProbeFailed", "A probe failed after a change, which stays: `rollbackOnProbeFailure` is false.";
    DRY_RUN = "DryRun", "Nothing is written: `apply.mode: DryRun`.";
    // Accepted
    VALID = "Valid", "All of the object is in force.";
    INVALID = "Invalid", "The object breaks its schema or a rule; the message names the field.";
    UNREADABLE = "Unreadable", "A manifest could not be read or parsed; the last good one stays in force.";
    // Objects, over all nodes
    ALL_NODES = "AllNodes", "In force on every node that it is for.";
    SOME_NODES = "SomeNodes", "In force on some of the nodes that it is for; the message names others.";
    NO_MATCHING_NODE = "NoMatchingNode", "No node's agent has reported on the object.";
    AGENT_SILENT = "AgentSilent", "A node's agent has not written its state for 25 minutes.";
    // ClusterSynchronized
    API_SERVER_AWAY = "APIServerAway", "The API server does not answer as it should; the last good manifests stay in force.";
    FORBIDDEN = "Forbidden", "The API server refuses what the agent needs; the message names the kind.";
    KIND_MISSING = "KindMissing", "The API server does not know one of the kinds: its CRD is not installed.";
    NODE_NOT_FOUND = "NodeNotFound", "The cluster has no Node of the agent's name.";
    // FPMConnected
    CONNECTED = "Connected", "A session is up.";
    NEVER_CONNECTED = "NeverConnected", "No zebra has connected since the agent started.";
    LOST = "Lost", "The session ended.";
    PEER_REPLACED = "PeerReplaced", "A second zebra connected and won; the message names both.";
    FEEDBACK_UNSUPPORTED = "FeedbackUnsupported", "A session is up, but this FRR cannot use the answers that `fpm.offloadAck` asks for: none is sent.";
    LISTEN_FAILED = "ListenFailed", "The FPM address cannot be listened on.";
    // FRRPrepared
    PREPARED = "Prepared", "Nothing is seen to be missing.";
    FRR_NOT_RUNNING = "FRRNotRunning", "No zebra runs in this network namespace.";
    FRR_TOO_OLD = "FRRTooOld", "zebra is older than any that is tested.";
    MODULE_NOT_LOADED = "ModuleNotLoaded", "zebra was started without its FPM module.";
    ADDRESS_NOT_CONFIGURED = "AddressNotConfigured", "zebra has the module, but no `fpm address`.";
    MODULE_OR_ADDRESS_MISSING = "ModuleOrAddressMissing", "zebra runs in another container and does not connect: which of the two is missing cannot be seen from here.";
    ROUTING_TABLE_MISMATCH = "RoutingTableMismatch", "An import takes a table that zebra does not announce: `-R` is missing, or another.";
    // Synchronized
    IN_SYNC = "InSync", "The replay is complete.";
    INITIAL_SYNC = "InitialSync", "The first replay is running.";
    RESYNCING = "Resyncing", "A replay after a reconnect is running.";
    RETAINING = "Retaining", "FRR is gone; its routes are kept as `onFeedLoss` says.";
    // Programmed
    ALL_PROGRAMMED = "AllProgrammed", "The kernel acknowledged everything.";
    PENDING = "Pending", "Some of it is not acknowledged yet.";
    // FIBConsistent
    CONSISTENT = "Consistent", "The last audit found nothing.";
    COMPARISON_FAILED = "ComparisonFailed", "The kernel's routes could not be read and compared; it is tried again within a minute.";
    OBSERVED_MISMATCH = "ObservedMismatch", "An observed table differs from what FRR announced; nothing is written there.";
    // DataplaneAttached
    ATTACHED = "Attached", "All programs are attached.";
    NOT_REQUESTED = "NotRequested", "No `ReturnPath` applies to this node.";
    BPFFS_NOT_MOUNTED = "BpffsNotMounted", "The folder for pins is not on a bpffs.";
    MISSING_CAPABILITY = "MissingCapability", "The process lacks a capability; the message names it.";
    LOAD_FAILED = "LoadFailed", "The kernel refused a program or a map.";
    ATTACH_FAILED = "AttachFailed", "A program could not be attached to an interface.";
    // ForeignInterference
    NO_INTERFERENCE = "NoInterference", "Nobody touches what is ours.";
    RULE_DELETED = "RuleDeleted", "Somebody deletes our rules; they are put back.";
    SYSCTL_CHANGED = "SysctlChanged", "Somebody changes sysctls that we need; they are set again.";
    RULE_SHADOWED = "RuleShadowed", "A foreign rule in the band or before it decides first.";
}

words! {
    /// Reasons of `Conflicted`, of conflicts, and of items that are not in force.
    ITEMS:
    VRF_TABLE_MISMATCH = "VRFTableMismatch", "One VRF name with two tables.";
    TABLE_REUSED = "TableReused", "One table with two VRF names.";
    MODE_MISMATCH = "ModeMismatch", "`TableOnly` against `Create` or `Adopt` for one VRF.";
    INTERFACE_IN_OTHER_VRF = "InterfaceInOtherVRF", "One interface in two VRFs.";
    VLAN_MISMATCH = "VLANMismatch", "One VLAN interface with two parents or ids.";
    MTU_MISMATCH = "MTUMismatch", "One VLAN interface with two MTUs.";
    GATEWAY_WEIGHT_MISMATCH = "GatewayWeightMismatch", "One gateway with two weights.";
    INSTALL_MISMATCH = "InstallMismatch", "Two metrics, preferred sources or multipath modes for one import.";
    HASH_POLICY_MISMATCH = "HashPolicyMismatch", "Two multipath hash policies for one node.";
    RULE_ACTION_MISMATCH = "RuleActionMismatch", "One match with two actions.";
    GATEWAY_MISMATCH = "GatewayMismatch", "One return path interface with two gateway settings.";
    ISOLATION_FORBIDS = "IsolationForbids", "`ifUnavailable: Main` on a `Strict` VRF, or an ingress interface of another `Strict` VRF.";
    BAND_FULL = "BandFull", "More rules overlap than the band has priorities.";
    TABLE_OUTSIDE_OWNERSHIP = "TableOutsideOwnership", "The table is not in the range of `DataplaneConfig`.";
    TABLE_OWNED_BY_ZEBRA = "TableOwnedByZebra", "zebra writes that table itself: only `Observe` is possible.";
    TABLE_OCCUPIED = "TableOccupied", "The table holds routes of others: nothing is written there until it is free.";
    BAND_OCCUPIED = "BandOccupied", "Foreign rules stand in the rule band: no rule is added until they are gone.";
    DEVICE_MISMATCH = "DeviceMismatch", "A device of that name is something else; the message says what.";
    INTERFACE_HAS_CONTROLLER = "InterfaceHasController", "The interface is a member of a device that somebody else made: a bond, a bridge, a VRF.";
    INTERFACE_NOT_FOUND = "InterfaceNotFound", "The interface does not exist (yet).";
    UNSUPPORTED = "Unsupported", "This version or this kernel cannot do it; the message says what can.";
}

words! {
    /// Reasons of routes, in `routes` and in the counts of `status`.
    ROUTES:
    IMPORTED = "Imported", "An import brought it in.";
    CONNECTED_ROUTE = "Connected", "Copy of a connected route of the VRF's interfaces.";
    MOVED_ROUTE = "Moved", "Was in main before its interface moved into the VRF device.";
    CLUSTER_EXCEPTION = "ClusterException", "Sends a destination within the cluster from the VRF's table on to main.";
    LAST_RESORT = "LastResort", "A static gateway of the VRF.";
    ISOLATION = "Isolation", "The unreachable default that ends a `Strict` VRF.";
    RETURN_PATH = "ReturnPath", "Leads replies to the programs where no working route would.";
    NO_USABLE_LINK = "NoUsableLink", "None of its interfaces is up with carrier, or the kernel has not answered yet.";
    NEXTHOP_UNRESOLVED = "NexthopUnresolved", "FRR announced no usable nexthop for it, or an id that it never announced.";
    REPLAY_INCOMPLETE = "ReplayIncomplete", "FRR's first replay has not ended: it may show that zebra writes the VRF device's table itself.";
    FEED_LOST = "FeedLost", "FRR no longer confirms it; kept until `onFeedLoss` ends.";
    OBSERVE_ONLY = "ObserveOnly", "The import observes; FRR writes the route itself.";
    NO_IMPORT = "NoImport", "No `RouteImport` takes routes of its table.";
    NOT_ALLOWED = "NotAllowed", "`allowed` does not cover the prefix.";
    PROTOCOL_NOT_SELECTED = "ProtocolNotSelected", "Not one of the import's protocols.";
    INTERFACE_NOT_SELECTED = "InterfaceNotSelected", "No nexthop leaves by the import's interfaces.";
    DEFAULT_ROUTE_REJECTED = "DefaultRouteRejected", "A default route, and the import or a guardrail rejects those.";
    PROTECTED_PREFIX = "ProtectedPrefix", "Equals or lies inside a protected prefix.";
    MAX_ROUTES = "MaxRoutes", "The import's `maxRoutes` is reached.";
    MAX_ROUTES_PER_NODE = "MaxRoutesPerNode", "The guardrail `maxRoutesPerNode` is reached.";
    MAX_LEARNED_ROUTES = "MaxLearnedRoutes", "FRR announces more than is kept: eight times the guardrail `maxRoutesPerNode`, at least 100,000 routes.";
    KERNEL_REJECTED = "KernelRejected", "The kernel refused it; the log and `status` have its words.";
    FOREIGN_ROUTE = "ForeignRoute", "Somebody else's route has its place.";
}
