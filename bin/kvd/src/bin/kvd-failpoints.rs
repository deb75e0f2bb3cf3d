//! kvd with failpoints (`kvd_vfs::failpoint`), for tests. It has a name of its own, so that nobody takes it for kvd.

#[path = "../main.rs"]
mod kvd_main;

fn main() -> std::process::ExitCode {
    kvd_main::main()
}
