/** Returns something other than a list of rewards. */
export default () => "nine out of ten";
