//! Compiles the schema without a `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/fpm.proto"], ["proto"])?;
    prost_build::compile_fds(descriptors)?;
    Ok(())
}
