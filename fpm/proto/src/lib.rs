//! The prost types of FRR's FPM protobuf messages: one [`fpm::Message`] is the payload of an FPM frame of type 2.
//!
//! The schema is in `proto/`. `zebra-fpm` decodes these messages to its typed model.

/// Messages of `fpm.proto`.
#[expect(missing_docs, reason = "generated; the schema has the comments")]
pub mod fpm {
    include!(concat!(env!("OUT_DIR"), "/fpm.rs"));
}

/// Messages of `qpb.proto`.
#[expect(missing_docs, reason = "generated; the schema has the comments")]
pub mod qpb {
    include!(concat!(env!("OUT_DIR"), "/qpb.rs"));
}
