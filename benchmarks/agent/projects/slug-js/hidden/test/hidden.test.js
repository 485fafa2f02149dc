import assert from "node:assert/strict";
import { test } from "node:test";
import { slugify } from "../slug.js";

test("hidden", () => {
  assert.equal(slugify("  a -- b  "), "a-b");
  assert.equal(slugify("C++ & Rust"), "c-rust");
  assert.equal(slugify("x"), "x");
});
