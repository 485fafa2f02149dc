const SEPARATOR = "-";

/** "Hello, big World!" -> "hello-big-world" */
export function slugify(title) {
  return title
    .toLowerCase()
    .replace(/[^a-z0-9]/g, SEPARATOR)
    .replace(/^-+|-+$/g, "");
}

/** Shortens at a word border; the result is never longer than `limit`. */
export function shortSlug(title, limit) {
  const slug = slugify(title);
  if (slug.length <= limit) {
    return slug;
  }
  const cut = slug.lastIndexOf(SEPARATOR, limit);
  return cut > 0 ? slug.slice(0, cut) : slug.slice(0, limit);
}
