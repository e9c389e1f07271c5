// The number of a workgroup: the host folds what exceeds the limit of one dimension into two, and the last row may be
// longer than what was asked for.
fn folded(workgroup: vec3u, workgroups: vec3u) -> u32 {
  return workgroup.x + workgroup.y * workgroups.x;
}
