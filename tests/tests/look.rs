#[test]
fn look() {
    let seed: u64 = std::env::var("S").unwrap().parse().unwrap();
    let bug = std::env::var("B").ok();
    let bug = holdfast_io::planted::Bug::ALL.iter().copied().find(|b| Some(format!("{b:?}")) == bug);
    let plan = holdfast_sim::plan::Plan { bug, ..holdfast_sim::plan::Plan::of_seed(seed) };
    println!("{plan:#?}");
    match holdfast_sim::cluster::run(&plan) {
        Ok(o) => println!("{:?}", o.counts),
        Err(v) => println!("{v}"),
    }
}
