//! The list as it is drawn.

use super::*;

#[test]
fn columns_fill_the_width_and_the_least_important_go_first() {
    let shown = |width| {
        let columns = columns(width);
        let taken: usize = columns.iter().map(|(_, width)| width + 1).sum();
        assert!(taken <= usize::from(width) || width < 32, "{taken} of {width}");
        columns.into_iter().map(|(column, _)| column).collect::<Vec<_>>()
    };
    assert_eq!(shown(30), [Column::Name, Column::Status]);
    let at_78 = shown(78);
    for column in [Column::CpuGraph, Column::Memory, Column::Restarts] {
        assert!(at_78.contains(&column), "{at_78:?}");
    }
    assert!(!at_78.contains(&Column::Pid));
    assert_eq!(shown(198).len(), COLUMNS.len());
}

#[test]
fn a_click_on_the_name_of_a_column_orders_by_it() {
    let area = Rect::new(1, 4, 78, 1);
    let found: Vec<Option<Sort>> = (0..80).map(|x| sort_at(area, x)).collect();
    for sort in [Sort::Id, Sort::Name, Sort::Cpu, Sort::Memory, Sort::Restarts] {
        assert!(found.contains(&Some(sort)), "{sort:?}");
    }
    assert_eq!(found[0], None);
}
