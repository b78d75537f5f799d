/** Returns what is no list of rewards. */
export default () => "nine out of ten";
