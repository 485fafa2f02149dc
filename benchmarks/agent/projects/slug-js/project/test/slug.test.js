import assert from "node:assert/strict";
import { test } from "node:test";
import { shortSlug, slugify } from "../slug.js";

test("lower case", () => {
  assert.equal(slugify("Hello"), "hello");
});

test("one separator between words", () => {
  assert.equal(slugify("Hello, big World!"), "hello-big-world");
});

test("short slug", () => {
  assert.equal(shortSlug("one two three", 8), "one-two");
});
