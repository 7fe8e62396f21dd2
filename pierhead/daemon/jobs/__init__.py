"""[Jobs] One async function per piece of work."""
