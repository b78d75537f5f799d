/** What goes wrong in a chat template. */

/** An error in a template, or one that Python would raise while it renders. */
export class TemplateFault extends Error {}

/** `raise_exception`: the template refuses what it is given. */
export class TemplateRefusal extends TemplateFault {}
