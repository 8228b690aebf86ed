//! Leaves the symbols out of the `rpm` that is built for use. `strip` in the profile would, but cargo strips no more than the debug
//! information of a package that has an `opt-level` of its own, which this one has.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_set = |name: &str, value: &str| std::env::var(name).is_ok_and(|set| set == value);
    // `cargo xtask dist` builds with line tables, and takes the symbols out by itself.
    if is_set("PROFILE", "release") && is_set("DEBUG", "false") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
}
