/** Errors of chat templates. */

/** An error in a template, or one that Python would raise while it renders. */
export class TemplateFault extends Error {}

/** `raise_exception`: the template refuses its input. */
export class TemplateRefusal extends TemplateFault {}
