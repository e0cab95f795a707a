# says: a second guest on the same writable image is refused in clear words; two readers may share
# acceptance: 25
# backends: splitd
scenario() {
  local file said
  file=$(image shared 16)
  guest_start g "$(disk xvda "$(root_image g)")"
  guest_start h "$(disk xvda "$(root_image h)")"
  attach g xvdb "$file"
  said=$(xl block-attach h "$(disk xvdb "$file")" 2>&1) && fail "a second writer was let in"
  grep -q "script: .*$file" <<< "$said" || fail "the refusal does not name the image: $said"
  xl block-detach h xvdb || true
  must_within 60 absent "$(backend_path h xvdb)"
  detach g xvdb
  attach g xvdb "$file" access=ro
  attach h xvdb "$file" access=ro
  guest_stop h
  guest_stop g
}
